"""DASO, which CI-SSOD compares with: Oh et al., "DASO: Distribution-Aware Semantics-Oriented
Pseudo-label for Imbalanced Semi-Supervised Learning", CVPR 2022. Here it works on the boxes of a
detector.
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
