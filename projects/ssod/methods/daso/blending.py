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

    Example:
        >>> prototypes, known = torch.eye(2), torch.tensor([True, True])
        >>> semantic_distribution(torch.tensor([[3.0, 0.0]]), prototypes, known, temperature=1.0)
        tensor([[0.7311, 0.2689]])
    """
    return _similarities(features, prototypes, known, temperature).softmax(dim=1)


def blending_shares(counts: Tensor, temperature: float) -> Tensor:
    """`v_k = (n_k / max n) ** (1 / temperature)`, the weight of the semantic distribution. Frequent
    classes among the pseudo-labels get a high weight. All weights are 0 if nothing was counted.

    Args:
        counts: (K,) pseudo-labels of each class.

    Returns:
        (K,) in [0, 1].

    Example:
        >>> blending_shares(torch.tensor([100.0, 25.0]), temperature=2.0)
        tensor([1.0000, 0.5000])
    """
    return (counts / counts.max().clamp(min=1e-12)) ** (1 / temperature)


def blend_distributions(probabilities: Tensor, semantic: Tensor, shares: Tensor) -> Tensor:
    """`(1 - v_k) p + v_k q`, where k is the most probable class of p.

    A detector's p leaves a part to background, so q is scaled to p's foreground part.

    Args:
        probabilities: (M, K) p, rows sum to 1 or less. semantic: (M, K) q. shares: (K,) v.

    Returns:
        (M, K), with the row sums of p.

    Example:
        >>> p, q = torch.tensor([[0.6, 0.2]]), torch.tensor([[0.0, 1.0]])
        >>> blend_distributions(p, q, shares=torch.tensor([0.5, 0.0]))
        tensor([[0.3000, 0.5000]])
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

    Example:
        >>> prototypes, known = torch.eye(2), torch.tensor([True, True])
        >>> features, targets = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> round(float(semantic_alignment_loss(features, targets, prototypes, known, 1.0)), 4)
        0.3133
    """
    logs = _similarities(features, prototypes, known, temperature).log_softmax(dim=1)
    return -(targets * logs).sum() / max(len(features), 1)
