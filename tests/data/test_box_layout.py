"""Boxes in another layout than the format's are told by looking at all of them."""

from __future__ import annotations

import logging
from typing import Sequence

import numpy as np
import pytest

from ssod.data.box_layout import BoxLayout
from ssod.errors import UserError


def looked_at(boxes: np.ndarray, size: Sequence[int] = (480, 640), **check: bool) -> None:
    """`boxes` (N, 4) as a COCO file has them, taken for XYWH."""
    layout = BoxLayout("x.json")
    for x, y, w, h in boxes.tolist():
        layout.add([x, y, x + w, y + h], *size)
    layout.check(**check)


@pytest.fixture
def boxes() -> np.ndarray:
    """XYWH inside of 480 x 640."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(20, 150, (50, 2))
    return np.hstack([rng.uniform(0, 1, (50, 2)) * ([640, 480] - sizes), sizes])


def test_right_boxes_pass(boxes: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        looked_at(boxes)
        looked_at(boxes + 1.5)  # a labelling tool's rounding
        looked_at(np.array([[0.0, 0, 640, 480]] * 20))  # whole images
        looked_at(np.array([[10.0, 10, 600, 450]] * 20))
        looked_at(boxes[:0])
        looked_at(boxes, (None, None))  # type: ignore[arg-type]
    assert not caplog.records


def test_corners(boxes: np.ndarray) -> None:
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    with pytest.raises(UserError, match=r"x.json: \d+ of 50 boxes .*XYXY"):
        looked_at(corners)
    corners[0, 2:] = 0  # one slip does not hide it
    with pytest.raises(UserError, match="XYXY"):
        looked_at(corners)


def test_centres(boxes: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    centres = np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])
    with caplog.at_level(logging.WARNING):
        looked_at(centres)
    (record,) = caplog.records
    outside = int((centres[:, :2] + centres[:, 2:] > [642, 482]).any(axis=1).sum())
    assert f"x.json: {outside} of 50 boxes leave their image" in record.message
    assert "(cx, cy, width, height)" in record.message


def test_normalised(boxes: np.ndarray) -> None:
    with pytest.raises(UserError, match="x.json: .*normalised.*pixels"):
        looked_at(boxes / [640, 480, 640, 480])


def test_other_scale_is_warned_about(boxes: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        looked_at(boxes * 4)
    assert "boxes leave their image" in caplog.text


def test_boxes_without_area_tell_nothing() -> None:
    looked_at(np.zeros((20, 4)))
