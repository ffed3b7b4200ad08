"""Data-uncertainty guided multi-phase learning (Wang et al., CVPR 2021)."""

from importlib import import_module
from typing import Any

from ssod.methods.multi_phase.uncertain_negatives import UncertainNegatives
from ssod.methods.multi_phase.uncertainty import background_weights, similarity_loss

__all__ = [
    "UncertainNegatives",
    "background_weights",
    "image_certainty",
    "intersect_pseudo_labels",
    "similarity_loss",
]

# Offline labelling imports the methods, so this package imports its parts only on first use.
_ELSEWHERE = {
    "image_certainty": "ssod.pseudo_labels.certainty",
    "intersect_pseudo_labels": "ssod.pseudo_labels.intersection",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
