"""Finds the boxes that training cannot use, so that they are skipped, counted and listed.

Boxes here are XYXY in absolute pixels of the image file.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

logger = logging.getLogger(__name__)
_LISTED = 5


def box_problem(box: Sequence[float], height: Optional[int], width: Optional[int]) -> Optional[str]:
    """The problem of an XYXY box, or None.

    Boxes that are partly outside the image have no problem, because mappers clip them.

    Args:
        height, width: size of the image. None if unknown: "outside" is then not checked on that
            side.
    """
    if len(box) != 4 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        return "not four finite numbers"
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return "no area"
    if (
        x1 <= 0
        or y1 <= 0
        or (width is not None and x0 >= width)
        or (height is not None and y0 >= height)
    ):
        return "outside of the image"
    return None


def box_problems(boxes: np.ndarray, height: np.ndarray, width: np.ndarray) -> Dict[int, str]:
    """Row -> what `box_problem` says, for the boxes that cannot be used.

    Args:
        boxes: float64 (A, 4) XYXY. height, width: (A,) of each box's image, 0 if unknown.
    """
    x0, y0, x1, y1 = boxes.T
    usable = np.isfinite(boxes).all(axis=1) & (x1 > x0) & (y1 > y0) & (x1 > 0) & (y1 > 0)
    usable &= ((x0 < width) | (width == 0)) & ((y0 < height) | (height == 0))
    found = {}
    for row in np.flatnonzero(~usable).tolist():
        size = int(height[row]) or None, int(width[row]) or None
        found[row] = str(box_problem(boxes[row].tolist(), *size))
    return found


@dataclass(frozen=True)
class SkippedBox:
    """An annotation that cannot be used: its name in messages, the reason, and its image file."""

    label: str
    reason: str
    image: Optional[str] = None


# Boxes skipped at the last reading of each source; `skipped_boxes.json` lists them.
_reported: Dict[Tuple[str, str], List[SkippedBox]] = {}


class SkippedBoxes:
    """Collects the unusable annotations of one file and reports them in a single warning."""

    def __init__(self, source: str, what: str = "unusable boxes") -> None:
        self.source = source
        self.what = what
        self.found: List[SkippedBox] = []

    @property
    def reasons(self) -> Counter[str]:
        """The number of skipped boxes for each reason."""
        return Counter(box.reason for box in self.found)

    @property
    def examples(self) -> List[str]:
        """The labels of the first few."""
        return [box.label for box in self.found[:_LISTED]]

    def add(self, label: str, reason: str, image: Optional[str] = None) -> None:
        self.found.append(SkippedBox(label, reason, image))

    def report(self) -> None:
        """Logs one warning if anything was skipped.

        `skipped_boxes` returns the list until the source is read again.
        """
        _reported[self.source, self.what] = self.found
        total = len(self.found)
        if total:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in sorted(self.reasons.items())
            )
            more = ", ..." if total > len(self.examples) else ""
            logger.warning(
                f"{self.source}: skipped {total} {self.what} ({reasons}): {', '.join(self.examples)}{more}"
            )


def skipped_boxes(source: str) -> List[SkippedBox]:
    """The boxes that the last reading of a file or folder skipped."""
    return [box for (name, _), found in _reported.items() if name == source for box in found]
