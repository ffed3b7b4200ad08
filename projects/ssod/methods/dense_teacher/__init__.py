"""Dense Teacher: soft labels at single locations instead of boxes (Zhou et al., ECCV 2022)."""

from ssod.methods.dense_teacher.losses import learning_region, quality_focal_loss
from ssod.methods.dense_teacher.method import DenseTeacher

__all__ = ["DenseTeacher", "learning_region", "quality_focal_loss"]
