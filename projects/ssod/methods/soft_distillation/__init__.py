"""Soft distillation as in ALDI (Kay et al., "Align and Distill", TMLR 2025): the teacher's
distributions are the targets.
"""

from ssod.methods.soft_distillation.losses import (
    covered_by,
    sharpened,
    soft_cross_entropy,
)
from ssod.methods.soft_distillation.method import SoftDistillation

__all__ = ["SoftDistillation", "covered_by", "sharpened", "soft_cross_entropy"]
