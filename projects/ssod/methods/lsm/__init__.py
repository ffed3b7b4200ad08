"""Low-Confidence Samples Mining: PIM, SelfDistillation and what they are compared with."""

from ssod import compat

compat.apply()

from ssod.methods.lsm.comparators import MLC, AreaMining  # noqa: E402
from ssod.methods.lsm.distillation import self_distillation_loss  # noqa: E402
from ssod.methods.lsm.method import PIM, SelfDistillation  # noqa: E402
from ssod.methods.shared.half_size import shift_aligned_levels  # noqa: E402

__all__ = [
    "AreaMining",
    "MLC",
    "PIM",
    "SelfDistillation",
    "self_distillation_loss",
    "shift_aligned_levels",
]
