"""Consistent-Teacher's thresholds (Wang et al., CVPR 2023): a Gaussian mixture per class splits the
teacher's scores.
"""

from ssod.methods.gmm_threshold.method import GMMThreshold
from ssod.methods.gmm_threshold.mixture import fit_mixtures, mixture_thresholds

__all__ = ["GMMThreshold", "fit_mixtures", "mixture_thresholds"]
