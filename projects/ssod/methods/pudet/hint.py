"""Hint learning on FPN levels inside the imitation region (Eq. 11; Wang et al., CVPR 2019).

Shapes: A anchors of one level, location-major; M ground-truth boxes of one image; n images of (C,
h, w) maps. Boxes are XYXY in pixels.
"""

from __future__ import annotations

from typing import Tuple

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor


def imitation_mask(anchors: Tensor, gt_boxes: Tensor, ratio: float = 0.5) -> Tensor:
    """Anchors whose IoU with a ground truth exceeds `ratio` times that ground truth's best IoU on
    this level.

    A location of the map is in the region if any of its anchors is in the mask (`location_mask`). A
    ground truth that touches no anchor of the level adds no anchor.

    Args:
        anchors: (A, 4) of one FPN level. gt_boxes: (M, 4). ratio: in [0, 1).

    Returns:
        (A,) bool.

    Example:
        >>> anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 12.0, 12.0]])
        >>> imitation_mask(anchors, gt_boxes=anchors[:1])
        tensor([ True, False])
    """
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    overlap = pairwise_iou(Boxes(gt_boxes), Boxes(anchors))
    bound = ratio * overlap.amax(dim=1, keepdim=True)
    return (overlap > bound).any(dim=0)


def location_mask(anchors: Tensor, gt_boxes: Tensor, size: Tuple[int, int], ratio: float) -> Tensor:
    """The imitation region of one level as a (h, w) bool map.

    Args:
        anchors: (h * w * anchors per location, 4), in the order of Detectron2's generator. size:
            (h, w).
    """
    height, width = size
    return imitation_mask(anchors, gt_boxes, ratio).view(height, width, -1).any(dim=2)


def masked_squared_error(adapted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """The double sum of Eq. 11 before its division by `2 N_I`.

    Args:
        adapted: (n, C, h, w) maps of the student, after the adaptation layer. wanted: (n, C, h, w)
            maps of the teacher.
        mask: (n, h, w) bool.
    """
    error = (adapted.float() - wanted.detach().float()).pow(2).sum(dim=1)
    return (error * mask).sum()
