"""PUDet (Guo et al., CVPR 2021): positive-unlabelled purification of wild images and
ground-truth-bounded distillation.

The command `python -m ssod.tools.purify` does the purification (package `ssod.purification`).
"""

from ssod.methods.pudet.bounded import (
    bounded_box_distillation,
    bounded_classification_distillation,
)
from ssod.methods.pudet.hint import imitation_mask
from ssod.methods.pudet.method import BoundedDistillation
from ssod.methods.pudet.risk import nnpu_ascent, nnpu_risk

__all__ = [
    "BoundedDistillation",
    "bounded_box_distillation",
    "bounded_classification_distillation",
    "imitation_mask",
    "nnpu_ascent",
    "nnpu_risk",
]
