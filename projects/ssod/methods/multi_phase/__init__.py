"""Data-uncertainty guided multi-phase learning (Wang et al., CVPR 2021)."""

from ssod.methods.multi_phase.certainty import image_certainty
from ssod.methods.multi_phase.intersection import intersect_pseudo_labels
from ssod.methods.multi_phase.uncertain_negatives import UncertainNegatives
from ssod.methods.multi_phase.uncertainty import background_weights, similarity_loss

__all__ = [
    "UncertainNegatives",
    "background_weights",
    "image_certainty",
    "intersect_pseudo_labels",
    "similarity_loss",
]
