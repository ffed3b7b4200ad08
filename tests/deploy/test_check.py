"""What counts as the same detections."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import pytest

from ssod.deploy.check import Comparison, compare


def rows(*found: Any) -> Dict[str, np.ndarray]:
    """Detections from (box, score, class)."""
    boxes: List[Any] = [box for box, _, _ in found]
    return {
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "scores": np.array([score for _, score, _ in found]),
        "classes": np.array([label for _, _, label in found], dtype=np.int64),
    }


BOX = (0.0, 0.0, 100.0, 50.0)


def test_order_of_equal_scores_does_not_matter() -> None:
    other = (5.0, 5.0, 20.0, 20.0)
    found = compare(rows((BOX, 0.5, 1), (other, 0.5, 1)), rows((other, 0.5, 1), (BOX, 0.5, 1)))
    assert (found.images, found.detections, found.unmatched) == (1, 2, 0)
    assert found.agrees()


@pytest.mark.parametrize(
    "theirs",
    [
        rows((BOX, 0.9, 2)),  # another class
        rows((BOX, 0.9011, 1)),  # another score
        rows(((0.0, 0.0, 100.2, 50.0), 0.9, 1)),  # 0.2 of 100 pixels
        rows(),
    ],
)
def test_what_differs(theirs: Dict[str, np.ndarray]) -> None:
    found = compare(rows((BOX, 0.9, 1)), theirs)
    assert found.unmatched == 1 + len(theirs["scores"])
    assert not found.agrees()


def test_rounding_is_no_difference() -> None:
    found = compare(rows((BOX, 0.9, 1)), rows(((0.0, 0.0, 100.05, 50.0), 0.9005, 1)))
    assert found.unmatched == 0
    assert found.largest_score == pytest.approx(0.0005)
    assert found.largest_box == pytest.approx(0.05, abs=1e-4)


def test_each_detection_has_a_partner_of_its_own() -> None:
    assert compare(rows((BOX, 0.9, 1), (BOX, 0.9, 1)), rows((BOX, 0.9, 1))).unmatched == 1
    assert compare(rows((BOX, 0.9, 1)), rows((BOX, 0.9, 1), (BOX, 0.9, 1))).unmatched == 1


def test_what_scores_at_the_threshold_may_be_missing() -> None:
    assert compare(rows((BOX, 0.0504, 1)), rows(), lowest=0.05).unmatched == 0
    assert compare(rows(), rows((BOX, 0.0504, 1)), lowest=0.05).unmatched == 0
    assert compare(rows((BOX, 0.052, 1)), rows(), lowest=0.05).unmatched == 1


def test_masks_are_compared() -> None:
    ours, theirs = rows((BOX, 0.9, 1)), rows((BOX, 0.9, 1))
    ours["masks"] = np.ones((1, 60, 110), dtype=bool)
    theirs["masks"] = ours["masks"].copy()
    theirs["masks"][0, :1, :50] = False  # 50 of 6,600 pixels
    assert compare(ours, theirs).unmatched == 0
    theirs["masks"][0, :2] = False
    assert compare(ours, theirs).unmatched == 1


def test_one_in_a_thousand_may_lack_a_partner() -> None:
    total = Comparison()
    total.add(Comparison(images=2, detections=1999, unmatched=1, largest_score=1e-6))
    assert total.agrees()
    total.add(Comparison(unmatched=1))
    assert not total.agrees() and total.largest_score == 1e-6
    assert "2 without a partner" in total.line()
    assert Comparison().agrees()  # nothing found, nothing different
