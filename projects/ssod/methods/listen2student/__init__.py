"""Unbiased Teacher v2's box regression on pseudo-boxes, side by side of the box (Liu et al., CVPR
2022).
"""

from ssod.methods.listen2student.losses import better_sides, box_sides, power_likelihood_loss
from ssod.methods.listen2student.method import Listen2Student

__all__ = ["Listen2Student", "better_sides", "box_sides", "power_likelihood_loss"]
