"""How often each unlabelled image is drawn (CI-SSOD, Eq. 10 and 11).

Shapes: N unlabelled images, M pseudo-labels of all images, K foreground classes.
"""

from __future__ import annotations

from typing import Sequence, Tuple

import torch
from torch import Tensor


def class_sampling_rates(class_image_counts: Tensor, num_images: int, epsilon: float) -> Tensor:
    """`S_c = max(1, sqrt(epsilon * num_images / m_c))` (Eq. 10). It is 1 for a class that no image
    has.

    Args:
        class_image_counts: (K,) m, number of images with a box of the class. num_images: number of
            all images, N_l + N_u.

    Returns:
        (K,) float.
    """
    counts = class_image_counts.to(torch.get_default_dtype())
    rates = (epsilon * num_images / counts).sqrt().clamp(min=1.0)
    return torch.where(counts > 0, rates, 1.0)


def repeat_factors_of_rows(
    images: Tensor, classes: Tensor, scores: Tensor, rates: Tensor, thresholds: Tensor, count: int
) -> Tensor:
    """`max(1, max over the image's pseudo-labels of S_c (p - theta_c))` (Eq. 11). The pseudo-labels
    are rows of one table.

    Args:
        images: (M,) index of each pseudo-label's image, less than `count`. classes: (M,). scores:
            (M,) p.
        rates: (K,) S. thresholds: (K,) theta.

    Returns:
        (count,) float.
    """
    asked = rates[classes] * (scores - thresholds[classes])
    factors = torch.ones(count, dtype=asked.dtype, device=asked.device)
    return factors.scatter_reduce(0, images, asked, "amax", include_self=True)


def image_repeat_factors(
    pseudo_labels: Sequence[Tuple[Tensor, Tensor]],
    class_image_counts: Tensor,
    num_images: int,
    thresholds: Tensor,
    epsilon: float,
) -> Tensor:
    """Repeat factor of each unlabelled image (Eq. 10, 11). Factors are fractional and at least 1.

    Args:
        pseudo_labels: N pairs (classes (n,), scores (n,)). class_image_counts, num_images, epsilon:
            see `class_sampling_rates`. thresholds: (K,).

    Returns:
        (N,) float.

    Example:
        >>> rare, common = torch.tensor([1]), torch.tensor([0])
        >>> labels = [(rare, torch.tensor([0.9])), (common, torch.tensor([0.9]))]
        >>> counts, thresholds = torch.tensor([990, 10]), torch.tensor([0.6, 0.6])
        >>> image_repeat_factors(labels, counts, 1000, thresholds, epsilon=1.0)
        tensor([3.0000, 1.0000])
    """
    if not pseudo_labels:
        return torch.ones(0)
    lengths = torch.tensor([len(classes) for classes, _ in pseudo_labels])
    images = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(thresholds.device)
    classes = torch.cat([classes for classes, _ in pseudo_labels]).long()
    scores = torch.cat([scores for _, scores in pseudo_labels]).to(thresholds.dtype)
    rates = class_sampling_rates(class_image_counts, num_images, epsilon).to(thresholds)
    return repeat_factors_of_rows(images, classes, scores, rates, thresholds, len(lengths))
