"""Selects the pseudo-labels that join the labelled set for the next generation (CReST, section 3.2
and 3.3).

Shapes: K foreground classes, M pseudo-labels of the whole unlabelled set.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The dataset that holds the labels of the generation before.
ADDED = "crest_labels"


def kept_shares(class_counts: Tensor, alpha: float) -> Tensor:
    """`mu_c = (N_(K+1-c) / N_1) ** (1 / alpha)`: the share of a class's pseudo-labels that is kept.

    Classes are ranked by their number of labels, with c = 1 the most frequent. The rarer a class,
    the more of its pseudo-labels are kept. The rarest class keeps all.

    Args:
        class_counts: (K,) labels of each class in the labelled set. Ties keep class order.

    Returns:
        (K,) float64 in [0, 1].

    Example:
        >>> kept_shares(torch.tensor([100, 25]), alpha=2.0)
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    counts = class_counts.double()
    order = counts.argsort(descending=True, stable=True)
    shares = torch.zeros_like(counts)
    shares[order] = (counts[order].flip(0) / counts.max().clamp(min=1.0)) ** (1 / alpha)
    return shares


def most_confident(classes: Tensor, scores: Tensor, shares: Tensor) -> Tensor:
    """Selects the highest-scoring share of each class's pseudo-labels. Their number is rounded
    down, as in the authors' code.

    Args:
        classes: (M,) int64. scores: (M,). shares: (K,).

    Returns:
        (M,) bool. Of equal scores the earlier label is kept.

    Example:
        >>> classes, scores = torch.tensor([0, 0, 1]), torch.tensor([0.7, 0.9, 0.6])
        >>> most_confident(classes, scores, shares=torch.tensor([0.5, 1.0]))
        tensor([False,  True,  True])
    """
    kept = torch.zeros(len(classes), dtype=torch.bool)
    for label in classes.unique().tolist():
        own = (classes == label).nonzero().flatten()
        # A share of 0.3 of 10 labels must be 3 despite rounding errors.
        count = int(len(own) * float(shares[label]) + 1e-9)
        kept[own[scores[own].argsort(descending=True, stable=True)[:count]]] = True
    return kept


def generation_temperature(generation: int, generations: int, last: float) -> float:
    """CReST+'s t: from 1 in generation 0 to `last` in the last one, in equal steps.

    Example:
        >>> [generation_temperature(g, generations=3, last=0.5) for g in range(3)]
        [1.0, 0.75, 0.5]
    """
    done = generation / max(generations - 1, 1)
    return (1 - done) + done * last
