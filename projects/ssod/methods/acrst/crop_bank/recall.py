"""The pseudo recall of each class, and the probability of drawing its crops (ACRST, Eq. 8 and 9).

Shapes: K foreground classes.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

# A class that the teacher never finds counts with this share of the highest pseudo recall.
_FLOOR = 1e-3


def pseudo_recall(num_pseudo: Tensor, num_ground_truth: Tensor, image_ratio: float) -> Tensor:
    """The number of pseudo-labels of each class, divided by the number that the labelled images
    predict (Eq. 8).

    Args:
        num_pseudo, num_ground_truth: (K,) boxes of each class in the unlabelled and the labelled
            images.
        image_ratio: unlabelled images per labelled image, positive.

    Returns:
        (K,) float64; NaN for a class without ground truth, whose pseudo recall is unknown.

    Example:
        >>> pseudo_recall(torch.tensor([45, 9]), torch.tensor([10, 10]), image_ratio=9.0)
        tensor([0.5000, 0.1000], dtype=torch.float64)
    """
    if image_ratio <= 0:
        raise ValueError(f"image_ratio is {image_ratio}: it must be positive")
    truth = num_ground_truth.double()
    recall = num_pseudo.double() / (image_ratio * truth)
    return torch.where(truth > 0, recall, torch.nan)


def class_sampling_probabilities(
    pseudo_recall: Tensor, beta: float, available: Optional[Tensor] = None
) -> Tensor:
    """Probability of drawing each class: the lower its pseudo recall, the higher (Eq. 9).

    The class with the lowest pseudo recall gets the weight of the one with the highest, the second
    lowest that of the second highest, and so on.

    This differs from the paper in two points. Pseudo recall has a lower limit of 1/1000 of its
    maximum. The result is normalised, because Eq. 9 sums to 1 only for beta 1.

    Args:
        pseudo_recall: (K,). NaN: unknown. beta: 0 gives all classes the same probability, larger
            values increase the differences.
        available: bool (K,), classes that have crops. None: all classes.

    Returns:
        (K,) float64 that sums to 1. Classes that are unknown or not available get 0 and take no
        part in the ranking. If no class is left, all get 0. If the pseudo recalls of the remaining
        classes are all 0, these classes get the same probability. Ties keep class order.

    Example:
        >>> class_sampling_probabilities(torch.tensor([0.8, 0.2]), beta=1.0)
        tensor([0.2000, 0.8000], dtype=torch.float64)
    """
    recall = pseudo_recall.double()
    known = ~recall.isnan()
    if available is not None:
        known = known & available.to(recall.device, torch.bool)
    result = torch.zeros_like(recall)
    if not known.any():
        return result
    recall = recall[known]
    if recall.max() <= 0:
        result[known] = 1.0 / len(recall)
        return result
    recall = recall.clamp(min=_FLOOR * float(recall.max()))
    order = recall.argsort(descending=True, stable=True)
    # The sum that Eq. 9 divides by cancels in the normalisation. Dividing by the maximum keeps
    # powers in range.
    weights = torch.empty_like(recall)
    weights[order] = (recall[order].flip(0) / recall.max()) ** beta
    result[known] = weights / weights.sum()
    return result
