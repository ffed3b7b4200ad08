"""How well pseudo-boxes fit, by their size and score (LSM, Fig. 1).

Shapes: M pseudo-labels and T true boxes of one image, S = 3 sizes, B = 3 score intervals. Boxes are
XYXY in pixels of the image file.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

# COCO's sizes: small below 32 x 32 pixels, large from 96 x 96 on.
SIZES = ("small", "medium", "large")
_AREAS = (32.0**2, 96.0**2)
# The ends of the score intervals. The inner ends are LSM's alpha and t.
SCORES = (0.0, 0.5, 0.7, 1.0)


class SizeCounts(NamedTuple):
    """`labels`: (S, B) pseudo-labels. `iou`: (S, B) sums of their IoU."""

    labels: Tensor
    iou: Tensor


def iou_by_size(
    boxes: Tensor, classes: Tensor, scores: Tensor, truth_boxes: Tensor, truth_classes: Tensor
) -> SizeCounts:
    """Each pseudo-box's IoU with the nearest true box of its class, or 0 if there is none.

    Several pseudo-boxes may share a true box.

    Args:
        boxes: (M, 4). classes, scores: (M,). truth_boxes: (T, 4). truth_classes: (T,).
    """
    best = torch.zeros(len(boxes), dtype=torch.float64)
    if len(boxes) and len(truth_boxes):
        iou = box_iou(boxes.double(), truth_boxes.double())
        best = iou.masked_fill(classes[:, None] != truth_classes[None], 0.0).amax(dim=1)
    size = torch.bucketize(box_area(boxes), torch.tensor(_AREAS), right=True)
    interval = torch.bucketize(scores, torch.tensor(SCORES[1:-1]), right=True)
    cell = size * (len(SCORES) - 1) + interval
    zeros = torch.zeros(len(SIZES) * (len(SCORES) - 1), dtype=torch.float64)
    count = zeros.index_add(0, cell, torch.ones_like(best))
    shape = (len(SIZES), len(SCORES) - 1)
    return SizeCounts(count.view(shape), zeros.index_add(0, cell, best).view(shape))


def summarise_sizes(counts: List[SizeCounts]) -> List[Dict[str, Any]]:
    """Plain numbers for a file: one row {"size", "low", "high", "count", "mean_iou"} a cell; NaN
    without boxes.
    """
    count = sum(c.labels for c in counts)
    iou = sum(c.iou for c in counts)
    assert isinstance(count, Tensor) and isinstance(iou, Tensor)
    mean = iou / count
    return [
        {
            "size": size,
            "low": SCORES[b],
            "high": SCORES[b + 1],
            "count": float(count[s, b]),
            "mean_iou": float(mean[s, b]),
        }
        for s, size in enumerate(SIZES)
        for b in range(len(SCORES) - 1)
    ]
