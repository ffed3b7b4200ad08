"""Score thresholds per category that give the pseudo-labels the labelled set's class frequencies.

Shapes: K classes, M predictions, B histogram bins over scores 0..1. Memory does not grow with the
number of predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ScoreHistogram:
    """Counts the predictions of each class by their score.

    Args:
        num_classes: K.
    """

    BINS = 10_000

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, self.BINS, dtype=torch.int64)

    def add(self, classes: Tensor, scores: Tensor) -> None:
        """Counts predictions: classes (M,) int64, scores (M,) from 0 to 1."""
        bins = (scores.double() * self.BINS).long().clamp(0, self.BINS - 1)
        cells = classes.long() * self.BINS + bins
        self.counts += torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)


def matched_thresholds(histogram: Tensor, wanted: Tensor) -> Tensor:
    """The threshold of each class that keeps about the wanted number of predictions.

    As in data distillation (Radosavovic et al., CVPR 2018): the number of pseudo-boxes of a class
    per image is that of the labelled set.

    Args:
        histogram: (K, B) counts of `ScoreHistogram`. wanted: (K,) predictions to keep of each
            class.

    Returns:
        (K,) float64; predictions with `score >= threshold` are kept. Of equally good thresholds,
        the highest. Infinity if keeping nothing is nearest to the wanted number.
    """
    bins = histogram.shape[1]
    # kept[:, b]: with the threshold at the lower edge of bin b; b = B keeps nothing.
    kept = histogram.double().flip(1).cumsum(1).flip(1)
    kept = torch.cat([kept, torch.zeros(len(kept), 1, dtype=torch.float64)], dim=1)
    distance = (kept - wanted.double()[:, None]).abs()
    highest = bins - distance.flip(1).argmin(dim=1)  # argmin takes the first of equals
    thresholds = highest.double() / bins
    return torch.where(highest == bins, torch.inf, thresholds)
