"""The certainty of a background RoI: low if it looks like a positive RoI or lies apart from all of
them.

"Data-Uncertainty Guided Multi-Phase Learning for Semi-Supervised Object Detection", Eq. 2-7.
Shapes: N background RoIs, P positive RoIs, D feature channels; every tensor may have further, equal
leading dimensions (images of a batch), with masks for images that have fewer rows. Boxes are XYXY
in pixels.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def background_weights(
    boxes: Tensor,
    features: Tensor,
    positive_boxes: Tensor,
    positive_features: Tensor,
    a: float,
    b: float,
    c1: float,
    c2: float,
    positive_mask: Optional[Tensor] = None,
) -> Tensor:
    """Eq. 3-5: `w_i = (a + (1 - a) exp(-b exp(-c1 IoU_i))) * exp(-b exp(-c2 D_i))`.

    `IoU_i = max_j IoU_ij`, `D_i = 1 - max_j d_ij (1 - IoF_ij)` and `IoF_ij = |i n j| / |i|`. The
    paper calls `d_ij` a distance. It is the absolute cosine similarity.

    Args:
        boxes, features: (N, 4), (N, D). positive_boxes, positive_features: (P, 4), (P, D).
        a, b, c1, c2: the parameters of Eq. 5. positive_mask: bool (P,), False for rows that are
            padding.

    Returns:
        (N,) weights without gradient. They are 1 if the image has no positive RoI. A box without
        area overlaps nothing, and a feature of norm 0 is similar to nothing.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
        >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> parameters = {"a": 0.25, "b": 50.0, "c1": 20.0, "c2": 20.0}
        >>> background_weights(boxes, features, boxes[:1], features[:1], **parameters)
        tensor([1.0000, 0.2500])
    """
    first = soft_sampling_weights(boxes, positive_boxes, a, b, c1, positive_mask)
    if positive_boxes.shape[-2] == 0:
        return first
    shared, area, _ = _overlaps(boxes, positive_boxes)
    likeness = _similarity(features, positive_features) * (1.0 - _ratio(shared, area))
    if positive_mask is not None:
        likeness = likeness.masked_fill(~positive_mask[..., None, :], 0.0)
    second = _gompertz(1.0 - likeness.amax(dim=-1), b, c2)
    return first * _one_without_positives(second, positive_mask)


@torch.no_grad()
def soft_sampling_weights(
    boxes: Tensor,
    positive_boxes: Tensor,
    a: float,
    b: float,
    c1: float,
    positive_mask: Optional[Tensor] = None,
) -> Tensor:
    """Eq. 2, the first factor of Eq. 5 alone (Soft Sampling). Arguments and result are those of
    `background_weights`.
    """
    if positive_boxes.shape[-2] == 0:
        return boxes.new_ones(boxes.shape[:-1])
    shared, area, positive_area = _overlaps(boxes, positive_boxes)
    iou = _ratio(shared, area + positive_area - shared)
    if positive_mask is not None:
        iou = iou.masked_fill(~positive_mask[..., None, :], 0.0)
    weights = a + (1.0 - a) * _gompertz(iou.amax(dim=-1), b, c1)
    return _one_without_positives(weights, positive_mask)


def similarity_loss(
    embeddings_a: Tensor,
    embeddings_b: Tensor,
    boxes_a: Tensor,
    boxes_b: Tensor,
    iof_threshold: float = 0.7,
    pair_mask: Optional[Tensor] = None,
) -> Tensor:
    """Eq. 6-7, the mean over all pairs of `y (1 - d)^2 + (1 - y) d^2`. y is 1 if one box lies
    mostly in the other.

    Args:
        embeddings_a, boxes_a: (N, D), (N, 4) of all RoIs. embeddings_b, boxes_b: (P, D), (P, 4) of
            the positive RoIs.
        iof_threshold: y is 1 if the intersection covers more than this share of either box.
        pair_mask: bool (N, P), False for pairs that are padding.

    Returns:
        A scalar. It is 0 and has a gradient of 0 if there is no pair.

    Example:
        >>> same, apart = torch.ones(1, 2), torch.tensor([[8.0, 8.0, 9.0, 9.0]])
        >>> similarity_loss(same, same, torch.tensor([[0.0, 0.0, 2.0, 2.0]]), apart)
        tensor(1.0000)
    """
    shared, area_a, area_b = _overlaps(boxes_a, boxes_b)
    same = (_ratio(shared, area_a) > iof_threshold) | (_ratio(shared, area_b) > iof_threshold)
    errors = (_similarity(embeddings_a, embeddings_b) - same.to(embeddings_a.dtype)) ** 2
    if pair_mask is None:
        return errors.sum() / max(errors.numel(), 1)
    return (errors * pair_mask).sum() / pair_mask.sum().clamp(min=1)


def _gompertz(values: Tensor, b: float, c: float) -> Tensor:
    return torch.exp(-b * torch.exp(-c * values))


def _one_without_positives(weights: Tensor, positive_mask: Optional[Tensor]) -> Tensor:
    if positive_mask is None:
        return weights
    return torch.where(positive_mask.any(dim=-1, keepdim=True), weights, 1.0)


def _similarity(features: Tensor, others: Tensor) -> Tensor:
    """Eq. 3: (..., N, P) in [0, 1]."""
    # Mixed precision would multiply in half precision, and exp(-50 exp(-14 D)) would turn the error
    # of D into an error of several percent.
    with torch.autocast(features.device.type, enabled=False):
        return (F.normalize(features, dim=-1) @ F.normalize(others, dim=-1).mT).abs()


def _overlaps(boxes: Tensor, others: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Intersections (..., N, P), and both areas as (..., N, 1) and (..., 1, P)."""
    first, second = boxes[..., :, None, :], others[..., None, :, :]
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(
        first[..., 0], second[..., 0]
    )
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(
        first[..., 1], second[..., 1]
    )
    return width.clamp(min=0) * height.clamp(min=0), _area(first), _area(second)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(
        min=0
    )


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0 where `whole` has no area, because its part has none either."""
    return part / whole.clamp(min=torch.finfo(part.dtype).tiny)
