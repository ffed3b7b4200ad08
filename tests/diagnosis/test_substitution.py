"""Labels repaired by the truth, against cases worked out by hand."""

from __future__ import annotations

from typing import List

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ssod.data.truth import ImageTruth
from ssod.diagnosis.substitution import SUBSTITUTIONS, substitute
from ssod.structures import Geometry, PseudoLabels

# Objects: class 0 at the left, class 1 in the middle, class 2 at the right, which the teacher does
# not see.
TRUTH = ImageTruth(
    torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10]]), torch.tensor([0, 1, 2])
)


def labels() -> Instances:
    """Right with IoU 0.9; the second object as class 2; on nothing; a right one that is not
    selected.
    """
    row = Instances((20, 60))
    row.pred_boxes = Boxes(
        torch.tensor([[0.0, 0, 10, 9], [20.0, 0, 30, 10], [0.0, 12, 8, 20], [40.0, 0, 50, 10]])
    )
    row.pred_classes = torch.tensor([0, 2, 1, 2])
    row.scores = torch.tensor([0.9, 0.8, 0.7, 0.2])
    pseudo = PseudoLabels.from_detections([row])
    masks = [torch.tensor([True, True, True, False])]
    pseudo = pseudo.select(masks).with_columns([{"extra": torch.ones(4)}])
    return pseudo.instances[0]


def taught(row: Instances) -> List[tuple]:
    kept = row[row.selected]
    return [
        (*box, int(label))
        for box, label in zip(kept.gt_boxes.tensor.tolist(), kept.gt_classes.tolist())
    ]


def test_each_substitution() -> None:
    expected = {
        "true_labels": [(0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 2)],
        "found_boxes": [(0, 0, 10, 10, 0)],
        "no_false_labels": [(0, 0, 10, 9, 0)],
        "true_classes": [(0, 0, 10, 9, 0), (0, 12, 8, 20, 1), (20, 0, 30, 10, 1)],
    }
    assert set(expected) == set(SUBSTITUTIONS)
    for kind, wanted in expected.items():
        assert taught(substitute(labels(), TRUTH, kind)) == wanted, kind


def test_columns_of_repaired_labels() -> None:
    row = substitute(labels(), TRUTH, "true_labels")
    assert row.from_truth.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert row.extra.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert row.scores[4:].tolist() == [1, 1, 1]
    assert row.roi_reg_weight.tolist() == [0, 0, 0, 0, 1, 1, 1]
    # A label whose class is repaired keeps its box, score and weights.
    row = substitute(labels(), TRUTH, "true_classes")
    assert row.from_truth.sum() == 0 and row.scores[4:].tolist() == pytest.approx([0.8])
    assert row.roi_reg_weight[4:].tolist() == [0]


def test_both_heads_are_repaired() -> None:
    before = labels()
    before.rpn_selected = torch.tensor([True, True, True, True])
    row = substitute(before, TRUTH, "no_false_labels")
    assert row.rpn_selected.tolist() == row.selected.tolist() == [True, False, False, False]
    row = substitute(before, TRUTH, "true_labels")
    assert row.rpn_selected.tolist() == row.selected.tolist()


@pytest.mark.parametrize("kind", SUBSTITUTIONS)
def test_nothing_to_repair(kind: str) -> None:
    nothing = ImageTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    count = 3 if kind == "true_classes" else 0
    assert len(taught(substitute(labels(), nothing, kind))) == count
    empty = labels()[:0]
    assert len(taught(substitute(empty, TRUTH, kind))) == (3 if kind == "true_labels" else 0)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'nothing' is none of true_labels"):
        substitute(labels(), TRUTH, "nothing")


def test_boxes_to_the_view_and_back() -> None:
    # Half the size, mirrored, moved.
    geometry = Geometry(np.array([[-0.5, 0.0, 60.0], [0.0, 0.5, 5.0]]), (100, 100))
    boxes = torch.tensor([[10.0, 20, 30, 60]])
    moved = geometry.boxes_to_view(boxes, (60, 60))
    assert moved.tolist() == [[45.0, 15.0, 55.0, 35.0]]
    assert torch.allclose(geometry.boxes_to_original(moved), boxes)
    assert geometry.boxes_to_view(boxes, (30, 50)).tolist() == [[45.0, 15.0, 50.0, 30.0]]
