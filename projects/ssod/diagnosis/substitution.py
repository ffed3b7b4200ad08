"""Pseudo-labels with some of their errors removed by the truth.

Shapes: M pseudo-labels and T true boxes of one image. Boxes are XYXY in pixels of the view.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_iou

from ssod.data.truth import ImageTruth
from ssod.evaluation.pseudo_label_quality import assign_truth
from ssod.structures import WEIGHT_COLUMNS, append_labels

# The errors that are repaired, from all of them to one kind.
SUBSTITUTIONS = ("true_labels", "found_boxes", "no_false_labels", "true_classes")
# 1 for rows whose box is a true one. Methods that add rows give them 0.
TRUTH_COLUMN = "from_truth"
_IOU = 0.5


def substitute(row: Instances, truth: ImageTruth, kind: str) -> Instances:
    """One image's labels without the errors that `kind` names; no row is dropped.

    * "true_labels": the true boxes are selected, and nothing else.
    * "found_boxes": the true boxes of those objects that a selected label finds (its class, IoU 0.5
      or more).
    * "no_false_labels": the selected labels that find an object, with the teacher's boxes.
    * "true_classes": a selected label takes the class of the true box that it overlaps most, where
      the IoU is 0.5 or more. Labels on nothing keep their class.

    Args:
        row: of `PseudoLabels` after all methods refined it. truth: in pixels of the same view.

    Returns:
        Repaired labels are new rows at the end; the rows that they replace are no longer selected.
        True boxes have score 1 and all weights 1, labels with another class keep score and weights;
        other columns of new rows are 0. The new column `from_truth` (float) is 1 for true boxes.
    """
    chosen = row.selected.nonzero().flatten()
    columns: Dict[str, Any] = dict(row.get_fields())
    columns[TRUTH_COLUMN] = torch.zeros_like(row.scores)
    if kind == "true_classes":
        wrong, classes = _wrong_classes(row, chosen, truth)
        columns["selected"] = row.selected.index_fill(0, wrong, False)
        new = _like(row[wrong], classes)
    else:
        labels = (row.gt_boxes.tensor[chosen], row.gt_classes[chosen], row.scores[chosen])
        found = assign_truth(*labels, *truth, _IOU)
        selected = torch.zeros_like(row.selected)
        if kind == "no_false_labels":
            selected[chosen[(found >= 0).to(chosen.device)]] = True
            added = found[:0]
        elif kind == "found_boxes":
            added = found[found >= 0].sort().values
        elif kind == "true_labels":
            added = torch.arange(len(truth.boxes))
        else:
            raise ValueError(f"{kind!r} is none of {', '.join(SUBSTITUTIONS)}")
        columns["selected"] = selected
        new = _true(row, truth.boxes[added], truth.classes[added])
    if "rpn_selected" in columns:  # the two heads are taught the same
        columns["rpn_selected"] = columns["selected"]
        new["rpn_selected"] = new["selected"]
    return append_labels(Instances(row.image_size, **columns), new)


def _wrong_classes(row: Instances, chosen: Tensor, truth: ImageTruth) -> Tuple[Tensor, Tensor]:
    """Rows that lie on an object of another class, and its class."""
    if not len(chosen) or not len(truth.boxes):
        return chosen[:0], row.gt_classes[:0]
    iou = box_iou(row.gt_boxes.tensor[chosen].float().cpu(), truth.boxes.float().cpu())
    best, index = iou.max(dim=1)
    right = truth.classes[index].to(row.gt_classes)
    wrong = (best >= _IOU).to(right.device) & (right != row.gt_classes[chosen])
    return chosen[wrong], right[wrong]


def _like(rows: Instances, classes: Tensor) -> Dict[str, Tensor]:
    return {
        "gt_boxes": rows.gt_boxes.tensor,
        "gt_classes": classes,
        "scores": rows.scores,
        "selected": torch.ones_like(rows.selected),
        **{name: rows.get(name) for name in WEIGHT_COLUMNS},
        **({"gt_masks": rows.gt_masks.tensor} if rows.has("gt_masks") else {}),
    }


def _true(row: Instances, boxes: Tensor, classes: Tensor) -> Dict[str, Tensor]:
    ones = row.scores.new_ones(len(boxes))
    return {
        "gt_boxes": boxes.to(row.gt_boxes.tensor),
        "gt_classes": classes.to(row.gt_classes),
        "scores": ones,
        "selected": ones.bool(),
        TRUTH_COLUMN: ones,
        **dict.fromkeys(WEIGHT_COLUMNS, ones),
    }
