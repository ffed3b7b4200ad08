"""Losses towards a teacher's distributions, and the selection of their boxes.

Shapes: R rows, K foreground classes, P pasted boxes. Boxes are XYXY in pixels of the same view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, pairwise_ioa, pairwise_iou
from torch import Tensor


def sharpened(logits: Tensor, temperature: float) -> Tensor:
    """`softmax(logits / temperature)`, (R, K+1). A temperature below 1 sharpens."""
    return (logits.float() / temperature).softmax(dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`- sum_k targets_k log softmax(logits)_k`, (R,). Logits and targets are (R, K+1)."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(dim=1)


def covered_by(boxes: Tensor, pasted: Tensor, iou: float = 0.5, share: float = 0.5) -> Tensor:
    """Which boxes (R, 4) show a pasted object. Such a box has an IoU of `iou` or more with one of
    the objects (P, 4), or the object covers the share `share` of it.
    """
    if not len(pasted):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    ours, theirs = Boxes(boxes), Boxes(pasted)
    covered = pairwise_ioa(theirs, ours).amax(dim=0)  # area shared / area of ours
    return (pairwise_iou(ours, theirs).amax(dim=1) >= iou) | (covered >= share)
