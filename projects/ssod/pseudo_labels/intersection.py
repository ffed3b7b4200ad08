"""The pseudo-labels that several detectors agree on (Algorithm 1, step 2).

Shapes: M_j labels of model j; boxes are XYXY in absolute pixels of the same image.
"""

from __future__ import annotations

from typing import Sequence

import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou


def intersect_pseudo_labels(
    predictions: Sequence[Instances], iou_threshold: float = 0.5
) -> Instances:
    """Keeps the newest model's labels that every other model confirms by a box of the same class.

    The paper does not say how boxes of different models are intersected. Here the newest model's
    box is kept. Its score is the mean of its own score and that of each other model's best match,
    which is the box of the same class with the highest IoU.

    Args:
        predictions: one `Instances` (pred_boxes, scores, pred_classes) a model, oldest first, at
            least one.
        iou_threshold: a match overlaps by at least this.

    Returns:
        `Instances` with pred_boxes, scores and pred_classes, in the newest model's order, with its
        pred_masks where it has them.

    Example:
        >>> old, new = Instances((100, 100)), Instances((100, 100))
        >>> old.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10]]))
        >>> new.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 8], [50, 50, 60, 60]]))
        >>> old.scores, new.scores = torch.tensor([0.5]), torch.tensor([0.9, 0.8])
        >>> old.pred_classes, new.pred_classes = torch.tensor([2]), torch.tensor([2, 2])
        >>> agreed = intersect_pseudo_labels([old, new])
        >>> agreed.pred_boxes.tensor, agreed.scores
        (tensor([[ 0.,  0., 10.,  8.]]), tensor([0.7000]))
    """
    newest = predictions[-1]
    boxes, classes = newest.pred_boxes.tensor, newest.pred_classes
    kept = torch.ones(len(newest), dtype=torch.bool, device=boxes.device)
    total = newest.scores.clone()
    for other in predictions[:-1]:
        if not len(other):
            kept[:] = False
            break
        if not len(newest):
            break
        iou = box_iou(boxes.float(), other.pred_boxes.tensor.float())
        iou = iou.masked_fill(classes[:, None] != other.pred_classes[None, :], -1.0)
        best, match = iou.max(dim=1)
        kept &= best >= iou_threshold
        total += other.scores[match]
    agreed = Instances(newest.image_size)
    agreed.pred_boxes = Boxes(boxes[kept])
    agreed.scores = (total / len(predictions))[kept]
    agreed.pred_classes = classes[kept]
    if newest.has("pred_masks"):
        agreed.pred_masks = newest.pred_masks[kept]
    return agreed
