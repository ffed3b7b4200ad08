"""Intersection and certainty, by hand."""

from __future__ import annotations

from typing import List

import pytest
import torch
from detectron2.structures import Boxes, Instances

from ssod.methods.multi_phase import image_certainty, intersect_pseudo_labels
from ssod.pseudo_labels.certainty import most_certain


def labels(rows: List[List[float]]) -> Instances:
    """Rows of x0, y0, x1, y1, score, class."""
    table = torch.tensor(rows).reshape(-1, 6)
    found = Instances((100, 100))
    found.pred_boxes, found.scores = Boxes(table[:, :4]), table[:, 4]
    found.pred_classes = table[:, 5].long()
    return found


def test_box_of_the_newest_and_mean_score() -> None:
    # 10 x 10 boxes: shifted by 3 -> IoU 70/130 = 0.538; shifted by 4 -> 60/140 = 0.429.
    oldest = labels([[3, 0, 13, 10, 0.2, 0], [0, 0, 10, 9, 0.6, 0], [54, 50, 64, 60, 0.9, 1]])
    newest = labels([[0, 0, 10, 10, 1.0, 0], [50, 50, 60, 60, 0.8, 1]])
    found = intersect_pseudo_labels([oldest, newest])
    # The best match of the first is the one with IoU 0.9, whatever the scores; the second has none.
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10]]
    assert found.scores.tolist() == pytest.approx([0.8])
    assert found.pred_classes.tolist() == [0]
    assert len(intersect_pseudo_labels([oldest, newest], iou_threshold=0.4)) == 2


def test_threshold_includes_its_value_and_classes_must_agree() -> None:
    newest = labels([[0, 0, 10, 10, 0.5, 0]])
    half = labels([[0, 0, 10, 5, 0.7, 0]])  # IoU exactly 0.5
    assert intersect_pseudo_labels([half, newest]).scores.tolist() == pytest.approx([0.6])
    other = labels([[0, 0, 10, 10, 0.7, 1]])
    assert len(intersect_pseudo_labels([other, newest])) == 0


def test_every_model_must_agree() -> None:
    a = labels([[0, 0, 10, 10, 0.3, 2]])
    c = labels([[0, 0, 10, 10, 0.9, 2]])
    assert intersect_pseudo_labels([a, a, c]).scores.tolist() == pytest.approx([0.5])
    assert len(intersect_pseudo_labels([a, labels([]), c])) == 0
    assert len(intersect_pseudo_labels([labels([]), a, c])) == 0


def test_one_model_and_no_labels() -> None:
    only = labels([[0, 0, 10, 10, 0.25, 2], [5, 5, 9, 9, 0.5, 0]])
    found = intersect_pseudo_labels([only])
    assert found.scores.tolist() == [0.25, 0.5] and found.image_size == (100, 100)
    assert len(intersect_pseudo_labels([only, labels([])])) == 0
    assert only.scores.tolist() == [0.25, 0.5]  # untouched


def test_certainty() -> None:
    assert image_certainty(torch.tensor([0.5, 1.0])) == 0.75
    assert image_certainty(torch.zeros(0)) == 0.0


def test_most_certain_images() -> None:
    certainty = torch.tensor([0.5, -1.0, 0.9, 0.0, 0.5])
    assert most_certain(certainty, 0.5).tolist() == [True, False, True, False, False]  # 2 of 4
    assert most_certain(certainty, 1.0).tolist() == [True, False, True, True, True]
    assert not most_certain(certainty, 0.0).any()
    assert most_certain(torch.zeros(0), 1.0).tolist() == []
