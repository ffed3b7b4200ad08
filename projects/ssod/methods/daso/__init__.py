"""DASO, a comparator of CI-SSOD: Oh et al., "DASO: Distribution-Aware Semantics-Oriented
Pseudo-label for Imbalanced Semi-Supervised Learning", CVPR 2022; here for the boxes of a detector.
"""

from ssod.methods.daso.blending import (
    blend_distributions,
    blending_shares,
    semantic_alignment_loss,
    semantic_distribution,
)
from ssod.methods.daso.method import DASO

__all__ = [
    "DASO",
    "blend_distributions",
    "blending_shares",
    "semantic_alignment_loss",
    "semantic_distribution",
]
