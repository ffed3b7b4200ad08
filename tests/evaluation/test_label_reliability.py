"""Right boxes and right classes by score."""

from __future__ import annotations

import torch

from ssod.evaluation.label_reliability import (
    format_classes,
    format_reliability,
    measure_reliability,
)

LIMITS = (0.1, 0.5, 0.9)
LEFT, RIGHT, FAR = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [50.0, 50, 60, 60]


def test_by_hand() -> None:
    # Left: two classes, of which the better one is wrong. Right: found twice, the second box apart
    # enough to count. Far: nothing there.
    boxes = torch.tensor([LEFT, LEFT, RIGHT, [23.0, 0, 33, 10], FAR])
    classes = torch.tensor([1, 0, 1, 1, 0])
    scores = torch.tensor([0.6, 0.3, 0.95, 0.2, 0.4])
    truth = torch.tensor([LEFT, RIGHT])
    found = measure_reliability(boxes, classes, scores, truth, torch.tensor([0, 1]), LIMITS)
    assert found.found.tolist() == [4, 2, 1]
    assert found.on_object.tolist() == [2, 2, 1]
    assert found.right_class.tolist() == [1, 1, 1]
    assert int(found.truth) == 2
    table = format_reliability(found.plus(found), LIMITS).splitlines()
    assert table[2:] == [
        "| 0.1 | 8 | 50 % | 50 % | 100 % |",
        "| 0.5 | 4 | 100 % | 50 % | 100 % |",
        "| 0.9 | 2 | 100 % | 100 % | 50 % |",
    ]


def test_nothing_found_and_nothing_there() -> None:
    none, no_class = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    truth = torch.tensor([LEFT])
    found = measure_reliability(none, no_class, torch.zeros(0), truth, torch.tensor([0]), LIMITS)
    assert found.found.tolist() == [0, 0, 0] and int(found.truth) == 1
    assert "| 0.1 | 0 | – | – | 0 % |" in format_reliability(found, LIMITS)
    empty = measure_reliability(truth, torch.tensor([0]), torch.ones(1), none, no_class, LIMITS)
    assert empty.on_object.tolist() == [0, 0, 0]
    assert "| 0.1 | 1 | 0 % | – | – |" in format_reliability(empty, LIMITS)


def test_classes_and_what_they_are_taken_for() -> None:
    boxes = torch.tensor([LEFT, RIGHT, FAR])
    truth = torch.tensor([0, 0, 2])
    found = measure_reliability(
        boxes, torch.tensor([1, 0, 2]), torch.tensor([0.9, 0.8, 0.6]), boxes, truth, LIMITS
    )
    none = torch.zeros(0, dtype=torch.int64)
    missed = measure_reliability(none.reshape(0, 4), none, none.float(), boxes[:1], truth[:1])
    table = format_classes(
        found._replace(of_class=found.of_class + missed.of_class), ["a", "b", "c"]
    )
    assert table.splitlines()[2:] == [
        "| a | 3 | 67 % | 50 % | b (50 %) |",
        "| c | 1 | 0 % | – | – |",
    ]


def test_of_many_classes_those_with_mistakes() -> None:
    boxes = torch.arange(30.0)[:, None] * 20 + torch.tensor([LEFT])
    truth = torch.arange(30)
    labels = torch.where(truth == 29, 0, truth)
    found = measure_reliability(boxes, labels, torch.ones(30), boxes, truth)
    table = format_classes(found, [f"c{k}" for k in range(30)]).splitlines()
    assert len(table) == 22 and table[2] == "| c29 | 1 | 100 % | 0 % | c0 (100 %) |"
