"""The scores, with numbers computed by hand."""

from __future__ import annotations

import math
from typing import List, Tuple

import pytest
import torch
from detectron2.structures import Boxes, Instances

from ssod.active_learning.scores import (
    class_uncertainty,
    class_weights,
    disagreement,
    entropy,
    highest_of_class,
    matches,
    rarity,
)

Row = Tuple[List[float], float, int]


def found(*rows: Row) -> Instances:
    """Detections of (box, score, class)."""
    value = Instances((100, 100))
    value.pred_boxes = Boxes(torch.tensor([r[0] for r in rows]).reshape(-1, 4))
    value.scores = torch.tensor([r[1] for r in rows])
    value.pred_classes = torch.tensor([r[2] for r in rows], dtype=torch.int64)
    return value


BOX, OTHER = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
HALF = [0.0, 0, 10, 5]  # IoU 0.5 with BOX


def test_entropy_is_in_bits() -> None:
    expected = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert entropy(torch.tensor([0.25]))[0] == pytest.approx(expected)
    assert entropy(torch.tensor([0.0, 1.0, 0.5])).tolist() == [0, 0, 1]


def test_a_class_is_as_uncertain_as_its_least_certain_detection() -> None:
    scores, classes = torch.tensor([0.9, 0.5, 1.0]), torch.tensor([0, 0, 2])
    assert class_uncertainty(scores, classes, 4).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert class_uncertainty(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 2).tolist() == [
        0,
        0,
    ]


def test_weights_of_classes() -> None:
    weights = class_weights(torch.tensor([0, 3, 12]))
    assert weights.tolist() == pytest.approx([1.0, 0.5, math.log(16 / 13) / math.log(16)])
    assert class_weights(torch.zeros(2)).tolist() == [0, 0]


def test_rarity_counts_a_class_once_by_its_best_score() -> None:
    weights = torch.tensor([0.5, 1.0, 0.2], dtype=torch.float64)
    scores, classes = torch.tensor([0.25, 0.75, 0.5]), torch.tensor([0, 0, 1])
    presence = highest_of_class(scores, classes, len(weights))
    assert rarity(presence, weights) == pytest.approx(0.75 * 0.5 + 0.5 * 1.0)
    nothing = highest_of_class(scores[:0], classes[:0], len(weights))
    assert rarity(nothing, weights) == 0


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([], [], 0.0),
        ([(BOX, 0.8, 0)], [(BOX, 0.8, 0)], 0.0),
        ([(BOX, 0.8, 0)], [], 1.0),
        ([(BOX, 0.8, 0)], [(BOX, 0.8, 1)], 1.0),  # another class
        ([(BOX, 0.8, 0)], [(OTHER, 0.8, 0)], 1.0),
        ([(BOX, 0.8, 0)], [(BOX, 0.4, 0)], 1 - 0.4 / 0.8),
        ([(BOX, 0.8, 0)], [(HALF, 0.8, 0)], 1 - 0.5),
        # 0.4 of the pair is shared; 0.8 and the 0.2 of the box that only one has make the union.
        ([(BOX, 0.8, 0), (OTHER, 0.2, 1)], [(BOX, 0.4, 0)], 1 - 0.4 / 1.0),
    ],
)
def test_disagreement(first: List[Row], second: List[Row], expected: float) -> None:
    for a, b in ((first, second), (second, first)):
        assert disagreement(found(*a), found(*b)) == pytest.approx(expected, abs=1e-6)


def test_matches_are_one_to_one_and_the_nearest_come_first() -> None:
    first = found((HALF, 0.9, 0), (BOX, 0.9, 0))
    second = found((BOX, 0.9, 0), (OTHER, 0.5, 0))
    assert matches(first, second, 0.5) == [(1, 0, 1.0)]
