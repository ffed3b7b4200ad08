"""Dense Teacher's equations (Zhou et al., "Dense Teacher: Dense Pseudo-Labels for Semi-supervised
Object Detection", ECCV 2022) as functions of tensors.

Shapes: R locations, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def learning_region(scores: Tensor, fraction: float) -> Tensor:
    """The locations that teach: those with the richest features.

    Args:
        scores: (R, K) the teacher's class probabilities; a location's richness is its highest.
        fraction: of the locations, 0.01 in the paper; at least one is taken.

    Returns:
        (R,) bool. Ties are broken in an arbitrary way.

    Example:
        >>> learning_region(torch.tensor([[0.1, 0.2], [0.9, 0.0], [0.3, 0.3]]), 0.4)
        tensor([False,  True, False])
    """
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if not len(scores):
        return chosen
    count = max(int(len(scores) * fraction), 1)
    chosen[scores.amax(dim=1).topk(count).indices] = True
    return chosen


def quality_focal_loss(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Quality focal loss: |y - p|^gamma times the binary cross-entropy with the soft label y.

    Args:
        logits: (R, K) the student's. targets: (R, K) in 0 to 1: the teacher's probabilities in the
            learning region, 0 outside.

    Returns:
        (R, K).

    Example:
        >>> quality_focal_loss(torch.zeros(1, 2), torch.tensor([[0.5, 1.0]]), gamma=2.0)
        tensor([[0.0000, 0.1733]])
    """
    distance = (targets - logits.sigmoid()).abs()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return distance**gamma * cross_entropy
