"""PseCo's label assignment and its vote on boxes (Li et al., "PseCo: Pseudo Labeling and
Consistency Training", ECCV 2022).

Shapes: P proposals of one image, M pseudo-labels of it, F positive RoIs, K foreground classes.
Boxes are XYXY in pixels.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor


def candidate_labels(proposals: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Assigns each proposal to the label with which its IoU is highest, if that IoU is high enough.

    Args:
        proposals: (P, 4). labels: (M, 4). iou_threshold: at least this IoU.

    Returns:
        (P,) int64 index of the label, -1 for no label.
    """
    if len(labels) == 0:
        return torch.full((len(proposals),), -1, device=proposals.device)
    best, index = pairwise_iou(Boxes(proposals), Boxes(labels)).max(dim=1)
    return torch.where(best >= iou_threshold, index, -1)


def prediction_guided_assignment(
    candidates: Tensor, scores: Tensor, ious: Tensor, num_labels: int, top: int
) -> Tensor:
    """Prediction-guided label assignment (PLA): the best candidates of each label become positive.

    A candidate's quality is `sqrt(score * IoU)`, from the teacher's predictions. The number of
    positives is the sum of the label's `top` highest IoUs, rounded down, but at least one. So the
    better the teacher localises an object, the more proposals learn it.

    Args:
        candidates: (P,) from `candidate_labels`. scores: (P,) the teacher's probability of the
            label's class.
        ious: (P,) IoU of the teacher's refined box with the label. Rows without a candidate label
            are ignored.
        num_labels: M. top: how many IoUs are summed.

    Returns:
        (P,) int64 index of the label, -1 for background.
    """
    if num_labels == 0 or len(candidates) == 0:
        return torch.full_like(candidates, -1)
    member = candidates[:, None] == torch.arange(num_labels, device=candidates.device)
    bag_ious = torch.where(member, ious[:, None], 0.0)
    count = bag_ious.topk(min(top, len(ious)), dim=0).values.sum(dim=0).floor().clamp(min=1)
    quality = torch.where(member, (scores * ious).sqrt()[:, None], -1.0)
    order = quality.argsort(dim=0, descending=True, stable=True)
    places = torch.arange(len(ious), device=order.device)[:, None].expand_as(order)
    rank = torch.empty_like(order).scatter_(0, order, places)
    positive = (member & (rank < count)).any(dim=1)
    return torch.where(positive, candidates, -1)


def consistency_votes(ious: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """Positive-proposal consistency voting (PCV): a label's weight is the mean IoU of its positive
    RoIs.

    Args:
        ious: (F,) IoU of each positive RoI's predicted box with the box of its label. labels: (F,)
            int64 in [0, num_labels).

    Returns:
        (F,) the weight of each RoI's label.
    """
    total, count = ious.new_zeros(2, num_labels).unbind()
    total = total.index_add(0, labels, ious)
    count = count.index_add(0, labels, torch.ones_like(ious))
    return (total / count.clamp(min=1))[labels]
