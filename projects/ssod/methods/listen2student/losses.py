"""Uncertainty of the four sides of a box: Unbiased Teacher v2 (Liu et al., CVPR 2022) and the loss
that it takes from Lee et al., "Localization Uncertainty Estimation for Anchor-Free Object
Detection" (ECCV workshops 2022).

Shapes: F locations. Sides are (F, 4): left, top, right, bottom, in anchor sizes from the anchor's
centre; FCOS's anchors are its strides. An uncertainty lies between 0 and 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def box_sides(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Distances of a box's sides from the anchor's centre, in anchor widths and heights.

    Args:
        boxes, anchors: (F, 4).

    Example:
        >>> box_sides(torch.tensor([[0.0, 0.0, 6.0, 8.0]]), torch.tensor([[1.0, 1.0, 3.0, 5.0]]))
        tensor([[1.0000, 0.7500, 2.0000, 1.2500]])
    """
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    size = anchors[:, 2:] - anchors[:, :2]
    return torch.cat([(centre - boxes[:, :2]) / size, (boxes[:, 2:] - centre) / size], dim=1)


def power_likelihood_loss(
    sides: Tensor, uncertainty: Tensor, wanted: Tensor, ious: Tensor
) -> Tensor:
    """The negative power log-likelihood: IoU * sum_k((d_k - g_k)^2 / (2 s_k^2) + log(s_k) + log(2
    pi) / 2).

    Args:
        sides, wanted: (F, 4) predicted and true sides. uncertainty: (F, 4) s, above 0. ious: (F,)
            of the two boxes.

    Returns:
        (F,). The constant makes it positive where s is close to 1; it has no gradient.

    Example:
        >>> sides, wanted = torch.ones(1, 4), torch.tensor([[1.0, 1.0, 1.0, 3.0]])
        >>> power_likelihood_loss(sides, torch.ones(1, 4), wanted, torch.tensor([0.5]))
        tensor([2.8379])
    """
    s = uncertainty.clamp(min=1e-3)
    terms = (sides - wanted) ** 2 / (2 * s**2) + s.log() + 0.5 * math.log(2 * math.pi)
    return ious * terms.sum(dim=1)


def better_sides(teacher: Tensor, student: Tensor, margin: float, certainty: float) -> Tensor:
    """Sides on which the student listens: the teacher is certain, and by a margin more than it.

    Args:
        teacher, student: (F, 4) uncertainties. margin: sigma of the paper. certainty: least value
            of 1 - uncertainty of the teacher.

    Returns:
        (F, 4) bool.

    Example:
        >>> t, s = torch.tensor([[0.1, 0.1, 0.4, 0.3]]), torch.tensor([[0.3, 0.15, 0.9, 0.3]])
        >>> better_sides(t, s, margin=0.1, certainty=0.8)
        tensor([[ True, False, False, False]])
    """
    return (1 - teacher >= certainty) & (teacher + margin <= student)
