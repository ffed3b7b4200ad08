"""Deformable DETR and RT-DETR v2 of the optional package `transformers`.

Importing this package registers the meta-architectures `DeformableDETR` and `RTDETRV2`.
"""

from ssod.detectors.detr.config import add_detr_config
from ssod.detectors.detr.deformable_detr import DeformableDETR
from ssod.detectors.detr.rt_detr import RTDETRV2

__all__ = ["DeformableDETR", "RTDETRV2", "add_detr_config"]
