"""The cost of errors, from AP values worked out by hand."""

from __future__ import annotations

import pytest

from ssod.diagnosis.costs import COSTS, costs, format_costs, gain
from ssod.diagnosis.rows import MEANING, ROWS

VALUES = {
    "no_unlabeled": {1: 30.0, 2: 32.0},
    "as_it_is": {1: 32.0, 2: 33.0},
    "true_classes": {1: 36.0},
    "no_false_labels": {1: 33.0, 2: 36.0},
    "found_boxes": {1: 35.0, 2: 36.0},
    "true_labels": {1: 40.0, 2: 42.0},
}


def test_every_pair_names_rows() -> None:
    assert {row for _, better, worse in COSTS for row in (better, worse)} <= set(ROWS)
    assert set(MEANING) == set(ROWS)


def test_costs_are_paired_differences() -> None:
    found = {(c.better, c.worse): c.points for c in costs(VALUES)}
    total = found["true_labels", "as_it_is"]
    # 8 and 9; standard error 0.707 / sqrt(2).
    assert (total.mean, total.count) == (8.5, 2) and total.spread == pytest.approx(0.5)
    assert found["true_labels", "found_boxes"].mean == 5.5
    assert found["found_boxes", "no_false_labels"].mean == 1.0
    assert found["no_false_labels", "as_it_is"].mean == 2.0
    assert found["true_classes", "as_it_is"].count == 1
    assert ("all_labels", "true_labels") not in found  # not run


def test_gain_over_no_unlabeled_images() -> None:
    found = gain(VALUES)
    assert found is not None
    assert found.recipe.mean == 1.5 and found.truth.mean == 10.0
    assert found.share == pytest.approx(15.0)
    text = format_costs(costs(VALUES), found)
    assert "| false labels | +2.0 ± 1.0 (2) | no_false_labels − as_it_is |" in text
    assert (
        "bring +1.5 ± 0.5 (2) AP; with true labels they would bring +10.0 ± 0.0 (2): 15 %" in text
    )


def test_rows_that_were_not_run() -> None:
    assert gain({"as_it_is": {1: 30.0}}) is None
    assert costs({}) == [] and format_costs([], None) == ""
    alone = gain({"as_it_is": {1: 30.0}, "no_unlabeled": {1: 31.0}})
    assert alone is not None and alone.share is None
    assert "bring -1.0 (1) AP." in format_costs([], alone)
