"""Joins an unlabelled image's own labels and those of the objects pasted into it."""

from __future__ import annotations

from typing import Optional

import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ssod.methods.acrst.crop_bank.paste import Pasted
from ssod.methods.acrst.crop_bank.visibility import hide_pixels, visible_fraction
from ssod.structures import WEIGHT_COLUMNS, append_labels

_REGRESSION = tuple(column for column in WEIGHT_COLUMNS if column.endswith("reg_weight"))


def with_pasted(
    own: Instances,
    pasted: Optional[Pasted],
    *,
    min_visible_fraction: float,
    regress_own: bool,
    regress_pasted: bool,
) -> Instances:
    """The image's own labels that are still visible, followed by the pasted ones.

    Args:
        own: M labels with the columns of `PseudoLabels`.
        pasted: P objects, or None if nothing was pasted.
        min_visible_fraction: own labels of which no more than this is visible are removed.
        regress_own, regress_pasted: whether boxes are regressed. True leaves the own boxes' weights
            as they are and gives pasted boxes a weight of 1.

    Returns:
        At most M + P labels with the columns of `own`.
    """
    fields = own.get_fields()
    if not regress_own:
        fields = {**fields, **dict.fromkeys(_REGRESSION, torch.zeros_like(own.scores))}
    if pasted is None:
        return Instances(own.image_size, **fields)
    boxes = own.gt_boxes.tensor
    above = pasted.boxes.to(boxes)
    hidden_by = pasted.occluders.to(boxes)
    if pasted.covered is None or not own.has("gt_masks"):
        left = visible_fraction(boxes, hidden_by)
    else:
        covered = pasted.covered.to(boxes.device)
        boxes, masks, left = hide_pixels(boxes, own.gt_masks.tensor, covered, hidden_by)
        fields = {**fields, "gt_boxes": Boxes(boxes), "gt_masks": BitMasks(masks)}
    # Computed once, because on a GPU each look-up by a mask would wait.
    rows = (left > min_visible_fraction).nonzero()[:, 0]
    ones = own.scores.new_ones(len(above))
    new = {
        "gt_boxes": above,
        "gt_masks": None if pasted.masks is None else pasted.masks.to(boxes.device),
        "gt_classes": pasted.classes.to(own.gt_classes),
        "scores": pasted.scores.to(own.scores),
        "selected": ones.bool(),
        "rpn_selected": ones.bool(),
        **dict.fromkeys(WEIGHT_COLUMNS, ones),
        **dict.fromkeys(_REGRESSION, float(regress_pasted) * ones),
    }
    return append_labels(Instances(own.image_size, **fields)[rows], new)
