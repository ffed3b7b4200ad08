"""A teacher's detections, pseudo-labels and stored labels, written by hand."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import torch
from detectron2.structures import Boxes, Instances

from ssod.structures import PseudoLabels, Sample
from tiny import CLASSES, SIZE, make_sample

BOX = (8.0, 8.0, 40.0, 40.0)


def detections(
    scores: Sequence[float],
    classes: Optional[Sequence[int]] = None,
    boxes: Any = None,
    size: Tuple[int, int] = (SIZE, SIZE),
) -> Instances:
    """The predictions of one image.

    Args:
        scores: M numbers.
        classes: M indices; None: 0, 1, 2, 0, ...
        boxes: (M, 4) XYXY, as lists, array or tensor; None: `BOX` for all.
        size: (height, width) of the image.
    """
    count = len(scores)
    found = Instances(size)
    rows = torch.as_tensor([BOX] * count if boxes is None else boxes, dtype=torch.float32)
    found.pred_boxes = Boxes(rows.reshape(-1, 4))
    found.scores = torch.as_tensor(scores, dtype=torch.float32)
    if classes is None:
        found.pred_classes = torch.arange(count) % len(CLASSES)
    else:
        found.pred_classes = torch.as_tensor(classes, dtype=torch.int64)
    return found


def pseudo_labels(
    scores: Sequence[float],
    classes: Optional[Sequence[int]] = None,
    boxes: Any = None,
    size: Tuple[int, int] = (SIZE, SIZE),
) -> PseudoLabels:
    """`detections` of one image as pseudo-labels, all of them selected."""
    return PseudoLabels.from_detections([detections(scores, classes, boxes, size)])


def stored_sample(index: int, scores: Sequence[float], same: bool = False) -> Sample:
    """An unlabelled sample whose first true boxes are its stored labels, with these scores.

    Args:
        same: each label is the first true box.
    """
    sample = make_sample(index, True)
    found = sample.instances
    assert found is not None
    rows = torch.zeros(len(scores), dtype=torch.int64) if same else torch.arange(len(scores))
    boxes, classes = found.gt_boxes.tensor[rows], found.gt_classes[rows]
    sample.stored, sample.instances = detections(scores, classes, boxes), None
    return sample
