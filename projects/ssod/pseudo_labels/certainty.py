"""How certain the detectors are about an image: Eq. 1 of the multi-phase paper."""

from __future__ import annotations

import torch
from torch import Tensor


def image_certainty(scores: Tensor) -> float:
    """Eq. 1: the mean score of the image's pseudo-labels.

    Args:
        scores: (M,) of one image.

    Returns:
        The mean; 0.0 without pseudo-labels, so that such an image is the least certain of all.

    Example:
        >>> round(image_certainty(torch.tensor([0.9, 0.7])), 3)
        0.8
    """
    return float(scores.double().mean()) if len(scores) else 0.0


def most_certain(certainty: Tensor, fraction: float) -> Tensor:
    """The easy images of a phase (Algorithm 1, step 3).

    Args:
        certainty: (N,) of the images; negative for images that cannot be used at all.
        fraction: how many of the usable images to keep, from 0 to 1, rounded to the nearest number.

    Returns:
        (N,) bool. Of equally certain images the first ones.

    Example:
        >>> most_certain(torch.tensor([0.2, 0.9, 0.5, 0.7]), fraction=0.5)
        tensor([False,  True, False,  True])
    """
    usable = int((certainty >= 0).sum())
    order = torch.argsort(certainty, descending=True, stable=True)
    kept = torch.zeros(len(certainty), dtype=torch.bool)
    kept[order[: round(fraction * usable)]] = True
    return kept
