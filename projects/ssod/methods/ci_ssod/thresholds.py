"""Score thresholds per class (CI-SSOD, Eq. 9; LabelMatch).

Shapes: K foreground classes, B score bins.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor


def class_thresholds(
    weights: Tensor,
    base: float,
    score_means: Optional[Tensor] = None,
    low: float = 0.5,
    high: float = 0.9,
) -> Tensor:
    """Gives lower thresholds to classes with a high weight or with low teacher scores.

    The threshold is `min(theta_p, theta_s)`, clamped to [low, high], with
    `theta_p = min(base, base / w_c)` (Eq. 9) and `theta_s = base * s_c / mean(s)`. The mean is over
    the classes seen. The second formula and the clamp come from the authors' code.

    Args:
        weights: (K,) foreground classes only. base: theta.
        score_means: (K,) mean score of the teacher's detections of each class. NaN: the class was
            not seen. None: theta_p alone is used.

    Returns:
        (K,).

    Example:
        >>> class_thresholds(torch.tensor([0.5, 1.25]), base=0.75)
        tensor([0.7500, 0.6000])
    """
    thresholds = (base / weights).clamp(max=base)
    if score_means is not None:
        by_score = base * score_means / score_means.nanmean()
        thresholds = torch.where(by_score.isnan(), thresholds, thresholds.minimum(by_score))
    return thresholds.clamp(low, high)


def matching_thresholds(histogram: Tensor, wanted: Tensor) -> Tensor:
    """For each class, the lowest score above which there are no more detections than wanted
    (LabelMatch).

    Chen et al., "Label Matching Semi-supervised Object Detection", CVPR 2022: the pseudo-labels of
    a class should be as frequent as its labels. The authors keep lists of scores. A histogram has a
    fixed size. If even all detections are too few, the threshold is 0.

    Args:
        histogram: (K, B) detections per image by score, bins of equal width over [0, 1].
        wanted: (K,) boxes per image in the labelled set.

    Returns:
        (K,) lower edges of bins, in [0, 1]. It is 1 if even the highest bin holds too many
        detections.
    """
    bins = histogram.shape[1]
    above = histogram.flip(1).cumsum(1)  # from bin B-1 downwards
    # A moving average has rounding errors. Without a tolerance, one label too few would pass.
    kept = (above <= wanted[:, None] * (1 + 1e-6)).sum(1)
    return 1.0 - kept.to(histogram.dtype) / bins
