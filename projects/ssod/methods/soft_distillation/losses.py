"""Losses towards a teacher's distributions, and the selection of their boxes.

Shapes: R rows, K foreground classes, P pasted boxes. Boxes are XYXY in pixels of the same view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, pairwise_ioa, pairwise_iou
from torch import Tensor


def sharpened(logits: Tensor, temperature: float) -> Tensor:
    """`softmax(logits / temperature)`, (R, K+1). A temperature below 1 sharpens.

    Example:
        >>> sharpened(torch.tensor([[1.0, 0.0]]), temperature=0.5)
        tensor([[0.8808, 0.1192]])
    """
    return (logits.float() / temperature).softmax(dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`- sum_k targets_k log softmax(logits)_k`, (R,). Logits and targets are (R, K+1).

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.8, 0.2]]))
        tensor([0.6931])
    """
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(dim=1)


def covered_by(boxes: Tensor, pasted: Tensor, iou: float = 0.5, share: float = 0.5) -> Tensor:
    """Which boxes (R, 4) show a pasted object. Such a box has an IoU of `iou` or more with one of
    the objects (P, 4), or the object covers the share `share` of it.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
        >>> covered_by(boxes, pasted=torch.tensor([[0.0, 0, 10, 6]]))
        tensor([ True, False])
    """
    if not len(pasted):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    ours, theirs = Boxes(boxes), Boxes(pasted)
    covered = pairwise_ioa(theirs, ours).amax(dim=0)  # area shared / area of ours
    return (pairwise_iou(ours, theirs).amax(dim=1) >= iou) | (covered >= share)
