"""Pseudo-labels with some of their errors removed by the truth.

Shapes: M pseudo-labels and T true boxes of one image. Boxes are XYXY in pixels of the view.
"""

from __future__ import annotations

from typing import Any, Dict

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_iou

from ssod.pseudo_labels.quality import assign_truth
from ssod.pseudo_labels.truth import ImageTruth
from ssod.structures import WEIGHT_COLUMNS

# What is repaired, from everything to one kind of error.
SUBSTITUTIONS = ("true_labels", "found_boxes", "no_false_labels", "true_classes")
# 1 for rows whose box is a true one. Methods that add rows give them 0.
TRUTH_COLUMN = "from_truth"
_IOU = 0.5


def substitute(row: Instances, truth: ImageTruth, kind: str) -> Instances:
    """One image's labels without the errors that `kind` names; rows that are not selected stay as they are.

    * "true_labels": the true boxes are selected, and nothing else.
    * "found_boxes": the true boxes of those objects that a selected label finds (its class, IoU 0.5 or more).
    * "no_false_labels": of the selected labels those that find an object, with the teacher's boxes.
    * "true_classes": every selected label takes the class of the true box that it overlaps most, where the IoU is 0.5
      or more. Labels on nothing keep their class.

    Args:
        row: of `PseudoLabels` after all methods refined it. truth: in pixels of the same view.

    Returns:
        Further rows at the end where true boxes are added: score 1, all weights 1, other columns 0. The new
        column `from_truth` (float) is 1 for them.
    """
    chosen = row.selected.nonzero().flatten()
    boxes, classes = row.gt_boxes.tensor[chosen], row.gt_classes[chosen]
    columns: Dict[str, Any] = dict(row.get_fields())
    columns[TRUTH_COLUMN] = torch.zeros_like(row.scores)
    none = truth.classes.new_zeros(0)
    added = none
    if kind == "true_classes":
        columns["gt_classes"] = _with_true_classes(row, chosen, truth)
    else:
        found = assign_truth(boxes, classes, row.scores[chosen], *truth, _IOU).to(chosen.device)
        selected = torch.zeros_like(row.selected)
        if kind == "no_false_labels":
            selected[chosen[found >= 0]] = True
        elif kind == "found_boxes":
            added = found[found >= 0].sort().values
        elif kind == "true_labels":
            added = torch.arange(len(truth.boxes), device=chosen.device)
        else:
            raise ValueError(f"{kind!r} is none of {', '.join(SUBSTITUTIONS)}")
        columns["selected"] = selected
    return _append(row, columns, truth.boxes[added.cpu()], truth.classes[added.cpu()])


def _with_true_classes(row: Instances, chosen: Tensor, truth: ImageTruth) -> Tensor:
    classes = row.gt_classes.clone()
    if len(chosen) and len(truth.boxes):
        iou = box_iou(row.gt_boxes.tensor[chosen].float().cpu(), truth.boxes.float().cpu())
        best, index = iou.max(dim=1)
        right = truth.classes[index].to(classes)
        classes[chosen] = torch.where((best >= _IOU).to(classes.device), right, classes[chosen])
    return classes


def _append(
    row: Instances, columns: Dict[str, Any], boxes: Tensor, classes: Tensor
) -> Instances:
    ones = row.scores.new_ones(len(boxes))
    new: Dict[str, Tensor] = {
        "gt_boxes": boxes.to(row.gt_boxes.tensor),
        "gt_classes": classes.to(row.gt_classes),
        "scores": ones,
        "selected": ones.bool(),
        TRUTH_COLUMN: ones,
        **dict.fromkeys(WEIGHT_COLUMNS, ones),
    }
    result = Instances(row.image_size)
    for name, values in columns.items():
        if isinstance(values, Boxes):
            values = values.tensor
        more = new.get(name)
        if more is None:
            more = values.new_zeros((len(boxes), *values.shape[1:]))
        joined = torch.cat([values, more])
        result.set(name, Boxes(joined) if name == "gt_boxes" else joined)
    return result
