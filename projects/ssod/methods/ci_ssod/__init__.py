"""Gradient-based sampling for class-imbalanced semi-supervised object detection (Li et al., ICCV
2023), and methods that the paper compares with.
"""

from ssod.methods.ci_ssod.class_weights import jacobi_target, solve_class_weights
from ssod.methods.ci_ssod.equalization import EQLv2
from ssod.methods.ci_ssod.gradient_matrix import gradient_matrix
from ssod.methods.ci_ssod.label_match import LabelMatchThresholds
from ssod.methods.ci_ssod.repeat_factors import image_repeat_factors
from ssod.methods.ci_ssod.reweighting import GradientReweighting
from ssod.methods.ci_ssod.sampling import ClassRebalancingSampling, RepeatFactorSampling
from ssod.methods.ci_ssod.thresholding import GradientThresholding
from ssod.methods.ci_ssod.thresholds import class_thresholds

__all__ = [
    "ClassRebalancingSampling",
    "EQLv2",
    "GradientReweighting",
    "GradientThresholding",
    "LabelMatchThresholds",
    "RepeatFactorSampling",
    "class_thresholds",
    "gradient_matrix",
    "image_repeat_factors",
    "jacobi_target",
    "solve_class_weights",
]
