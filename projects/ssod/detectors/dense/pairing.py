"""Finds the teacher's location for each location of the student, and the labels that are not the
teacher's.

Both views of an image have the same geometry, so a location is the same place in both. Padding
differs with the other images of the pass. Shapes: R student rows, T teacher rows.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

import torch
from torch import Tensor

from ssod.detectors.dense.outputs import DenseOutputs
from ssod.detectors.dense.predictions import DenseGroup, DensePredictions
from ssod.structures import PseudoLabels


def teacher_rows(outputs: DenseOutputs, teacher: DensePredictions) -> Tuple[Tensor, Tensor]:
    """The teacher's row at the place of each of the student's.

    Args:
        outputs: of the unlabelled stream. teacher: of the same images.

    Returns:
        (R,) rows of `teacher.flat`, and (R,) bool, True if the teacher has the location. Elsewhere
        the row is that of some other location.
    """
    starts: Dict[int, Tuple[int, DenseGroup]] = {}
    first = 0
    for group in teacher.groups:
        for index in group.indices:
            starts[index] = (first, group)
            first += len(group.anchors)
    rows: List[Tensor] = []
    known: List[Tensor] = []
    for group in outputs.predictions.groups:
        places = torch.arange(len(group.anchors), device=group.anchors.device)
        for index in group.indices:
            start, other = starts[index]
            found, inside = group.grid.find_in(other.grid, places)
            rows.append(start + found)
            known.append(inside)
    return torch.cat(rows), torch.cat(known)


def foreign_labels(outputs: DenseOutputs, pseudo: PseudoLabels) -> Tensor:
    """The rows that are matched with a label of another source than the teacher, such as a pasted
    object.

    Args:
        pseudo: the teacher's labels, before methods changed the view.

    Returns:
        (R,) bool.
    """
    rows = outputs.rows
    foreign = torch.zeros_like(rows.valid)
    for index, (target, own) in enumerate(zip(outputs.view.targets, pseudo.instances)):
        boxes, theirs = target.gt_boxes.tensor, own.gt_boxes.tensor
        new = ~(boxes[:, None] == theirs[None]).all(dim=2).any(dim=1)
        if new.any():
            mine = (rows.image_index == index) & (rows.label_index >= 0)
            foreign[mine] = new[rows.label_index[mine]]
    return foreign
