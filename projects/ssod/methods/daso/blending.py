"""The formulas of DASO (Oh et al., CVPR 2022) on boxes.

Shapes: M boxes, K foreground classes, D feature channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The logit of a class without prototype. It gives probability 0 in single precision and stays
# finite.
_NEVER = -1e4


def _similarities(
    features: Tensor, prototypes: Tensor, known: Tensor, temperature: float
) -> Tensor:
    """(M, K) cosines / temperature."""
    cosines = F.linear(F.normalize(features, dim=1), F.normalize(prototypes, dim=1))
    return torch.where(known, cosines / temperature, _NEVER)


def semantic_distribution(
    features: Tensor, prototypes: Tensor, known: Tensor, temperature: float
) -> Tensor:
    """`q = softmax(cos(f, prototype) / temperature)`, over the classes that have a prototype.

    Args:
        features: (M, D). prototypes: (K, D). known: (K,) bool.

    Returns:
        (M, K), rows sum to 1.
    """
    return _similarities(features, prototypes, known, temperature).softmax(dim=1)


def blending_shares(counts: Tensor, temperature: float) -> Tensor:
    """`v_k = (n_k / max n) ** (1 / temperature)`, the weight of the semantic distribution. Frequent
    classes among the pseudo-labels get a high weight. All weights are 0 if nothing was counted.

    Args:
        counts: (K,) pseudo-labels of each class.

    Returns:
        (K,) in [0, 1].
    """
    return (counts / counts.max().clamp(min=1e-12)) ** (1 / temperature)


def blend_distributions(probabilities: Tensor, semantic: Tensor, shares: Tensor) -> Tensor:
    """`(1 - v_k) p + v_k q`, where k is the most probable class of p.

    A detector's p leaves a part to background, so q is scaled to p's foreground part.

    Args:
        probabilities: (M, K) p, rows sum to 1 or less. semantic: (M, K) q. shares: (K,) v.

    Returns:
        (M, K), with the row sums of p.
    """
    share = shares[probabilities.argmax(dim=1)][:, None]
    mass = probabilities.sum(dim=1, keepdim=True)
    return (1 - share) * probabilities + share * mass * semantic


def semantic_alignment_loss(
    features: Tensor, targets: Tensor, prototypes: Tensor, known: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of the strong view's semantic distribution with the weak view's, averaged over
    boxes.

    Args:
        features: (M, D) of the strong view. targets: (M, K) of the weak view, see
            `semantic_distribution`.

    Returns:
        A scalar. Without boxes it is 0 and has a gradient of 0.
    """
    logs = _similarities(features, prototypes, known, temperature).log_softmax(dim=1)
    return -(targets * logs).sum() / max(len(features), 1)
