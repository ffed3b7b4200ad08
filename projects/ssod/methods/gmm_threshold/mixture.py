"""Two Gaussians per class, fitted to scores of the teacher by expectation maximisation.

Shapes: K classes, S stored scores of each. The first `counts[k]` entries of class k's row are
valid.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Tuple

import torch
from torch import Tensor

POLICIES = ("boundary", "mean")
# Below this standard deviation a component could collapse onto a single score.
_MIN_DEVIATION = 0.01
_ITERATIONS = 30


class Mixtures(NamedTuple):
    """Share, mean and standard deviation of the low and the high component, (K, 2) each."""

    shares: Tensor
    means: Tensor
    deviations: Tensor


def fit_mixtures(scores: Tensor, counts: Tensor) -> Tuple[Mixtures, Tensor]:
    """Fits `p(s) = sum_j share_j N(s | mean_j, deviation_j)` for each class, where j is low or
    high.

    The means start at the lowest and at the highest score, both deviations at a quarter of their
    distance. A fixed number of iterations keeps the result a function of the scores alone.

    Args:
        scores: (K, S). counts: (K,) int64, at least 1 for a class whose result is used.

    Returns:
        The mixtures, and (K, S) the probability that a score comes from the high component (0 for
        invalid entries).

    Example:
        >>> scores, counts = torch.tensor([[0.1, 0.2, 0.8, 0.9]]), torch.tensor([4])
        >>> mixtures, high = fit_mixtures(scores, counts)
        >>> [round(mean, 3) for mean in mixtures.means[0].tolist()], (high > 0.5).tolist()
        ([0.15, 0.85], [[False, False, True, True]])
    """
    scores = scores.double()
    valid = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    low = torch.where(valid, scores, math.inf).amin(dim=1)
    high = torch.where(valid, scores, -math.inf).amax(dim=1)
    low, high = (torch.where(counts > 0, end, 0.0) for end in (low, high))
    means = torch.stack([low, high], dim=1)
    deviations = ((high - low) / 4).clamp(min=_MIN_DEVIATION)[:, None].repeat(1, 2)
    mixtures = Mixtures(torch.full_like(means, 0.5), means, deviations)
    weights = valid[:, :, None].double()
    for _ in range(_ITERATIONS):
        shares = _responsibilities(scores, mixtures) * weights
        mass = shares.sum(dim=1)
        known = mass > 1e-6
        total = mass.clamp(min=1e-6)
        means = torch.where(known, (shares * scores[:, :, None]).sum(dim=1) / total, mixtures.means)
        spread = (scores[:, :, None] - means[:, None]).square()
        variances = (shares * spread).sum(dim=1) / total
        deviations = torch.where(known, variances.sqrt(), mixtures.deviations)
        portion = mass / counts.clamp(min=1)[:, None]
        mixtures = Mixtures(portion, means, deviations.clamp(min=_MIN_DEVIATION))
    return mixtures, _responsibilities(scores, mixtures)[:, :, 1] * valid


def _responsibilities(scores: Tensor, mixtures: Mixtures) -> Tensor:
    """(K, S, 2) probabilities of the components given a score."""
    shares, means, deviations = (value[:, None] for value in mixtures)
    distance = (scores[:, :, None] - means) / deviations
    log = shares.clamp(min=1e-12).log() - deviations.log() - 0.5 * distance.square()
    return log.softmax(dim=2)


def mixture_thresholds(scores: Tensor, counts: Tensor, policy: str) -> Tensor:
    """(K,) the lowest score of a selected label.

    "boundary": the lowest stored score that more probably comes from the high component. "mean":
    the lowest such score that is also at least that component's mean, where its density is highest
    (the paper's choice). If the low component is wider than the high one, it is more probable again
    above the high one. Such scores are selected too.

    Args:
        scores, counts: as in `fit_mixtures`. The threshold of a class with fewer than 2 scores has
            no meaning.

    Example:
        >>> scores, counts = torch.tensor([[0.1, 0.2, 0.8, 0.9]]), torch.tensor([4])
        >>> mixture_thresholds(scores, counts, "boundary")
        tensor([0.8000])
        >>> mixture_thresholds(scores, counts, "mean")
        tensor([0.9000])
    """
    mixtures, high = fit_mixtures(scores, counts)
    positive = high > 0.5
    if policy == "mean":
        positive &= scores.double() >= mixtures.means[:, 1:]
    elif policy != "boundary":
        raise ValueError(f"{policy!r} is none of {', '.join(POLICIES)}")
    # The high component starts at the highest score, so this score is always selected.
    valid = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    highest = torch.where(valid, scores, -math.inf).amax(dim=1)
    lowest = torch.where(positive, scores, math.inf).amin(dim=1)
    return torch.minimum(lowest, highest)
