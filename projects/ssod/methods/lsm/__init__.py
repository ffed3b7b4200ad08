"""Low-Confidence Samples Mining: PIM, SelfDistillation and methods to compare with."""

from ssod.methods.lsm.comparators import MLC, AreaMining
from ssod.methods.lsm.distillation import self_distillation_loss
from ssod.methods.lsm.method import PIM, SelfDistillation
from ssod.methods.shared.half_size import shift_aligned_levels

__all__ = [
    "AreaMining",
    "MLC",
    "PIM",
    "SelfDistillation",
    "self_distillation_loss",
    "shift_aligned_levels",
]
