"""Measures image-level activations: how well they rank images, and how well they are calibrated.

Shapes: N images, K foreground classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def roc_auc(scores: Tensor, present: Tensor) -> Tensor:
    """Area under each class's ROC curve: how often an image with the class has a higher score than
    an image without it.

    Args:
        scores: (N, K). present: (N, K) bool.

    Returns:
        float64 (K,). A tie counts half. NaN for a class that is in all images or in none.
    """
    areas = []
    for own, mask in zip(scores.double().unbind(dim=1), present.unbind(dim=1)):
        positive, negative = own[mask], own[~mask].sort().values
        below = torch.searchsorted(negative, positive, side="left")
        not_above = torch.searchsorted(negative, positive, side="right")
        pairs = len(positive) * len(negative)
        wins = (below + not_above).double().sum() / 2
        areas.append(wins / pairs if pairs else torch.full_like(wins, torch.nan))
    return torch.stack(areas) if areas else torch.zeros(0, dtype=torch.float64)


def focal_posterior(activations: Tensor, gamma: float, alpha: float) -> Tensor:
    """For each activation, the probability of presence at which this activation minimises the focal
    loss.

    The focal loss is not a proper score: its best activation p at a posterior q is not q. Setting
    the derivative of `q alpha (1-p)^gamma (-ln p) + (1-q) (1-alpha) p^gamma (-ln(1-p))` to 0 gives
    q from p.

    Args:
        activations: in (0, 1), any shape.

    Returns:
        The same shape. For gamma 0 and alpha 0.5 it is the activations themselves.

    Example:
        >>> import torch
        >>> focal_posterior(torch.tensor(0.2), gamma=2.0, alpha=0.25)
        tensor(0.0675)
    """
    p = activations.clamp(1e-6, 1 - 1e-6)
    miss = 1 - p
    if_present = alpha * (miss**gamma / p - gamma * miss ** (gamma - 1) * p.log())
    if_absent = (1 - alpha) * (p**gamma / miss - gamma * p ** (gamma - 1) * miss.log())
    return if_absent / (if_present + if_absent)


def calibration_error(posteriors: Tensor, present: Tensor, bins: int = 10) -> Tensor:
    """Expected calibration error of each class: the gap between predicted and actual share,
    averaged over bins of equal width.

    Args:
        posteriors: (N, K) predicted probabilities. present: (N, K) bool.

    Returns:
        float64 (K,). Each bin is weighted by its number of images. NaN without images.
    """
    count, classes = posteriors.shape
    index = (posteriors * bins).long().clamp(0, bins - 1)
    gaps = torch.zeros(bins, classes, dtype=torch.float64)
    gaps.scatter_add_(0, index, posteriors.double() - present.double())
    return gaps.abs().sum(dim=0) / count if count else torch.full((classes,), torch.nan).double()
