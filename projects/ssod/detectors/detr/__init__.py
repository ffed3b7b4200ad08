"""Deformable DETR and RT-DETR v2 of the optional package `transformers`.

Importing this package registers the meta-architectures `DeformableDETR` and `RTDETRV2` and their
adapters.
"""

from ssod.detectors.detr.deformable_detr import DeformableDETR
from ssod.detectors.detr.detector import DeformableDETRAdapter, RTDETRAdapter
from ssod.detectors.detr.rt_detr import RTDETRV2

__all__ = ["DeformableDETR", "DeformableDETRAdapter", "RTDETRAdapter", "RTDETRV2"]
