"""Finds the boxes that training cannot use, so that they are skipped, counted and listed.

Boxes here are XYXY in absolute pixels of the image file.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import List, Optional, Sequence

logger = logging.getLogger(__name__)
_LISTED = 5


def box_problem(box: Sequence[float], height: Optional[int], width: Optional[int]) -> Optional[str]:
    """What is wrong with an XYXY box, or None. Boxes that are partly outside of the image are fine: mappers clip them.

    Args:
        height, width: of the image; None where unknown (then "outside" is not checked on that side).
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


class SkippedBoxes:
    """Collects the unusable annotations of one file and reports them in a single warning."""

    def __init__(self, source: str, what: str = "unusable boxes") -> None:
        self.source = source
        self.what = what
        self.reasons: Counter[str] = Counter()
        self.examples: List[str] = []

    def add(self, label: str, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.examples) < _LISTED:
            self.examples.append(label)

    def report(self) -> None:
        total = sum(self.reasons.values())
        if total:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in sorted(self.reasons.items())
            )
            more = ", ..." if total > len(self.examples) else ""
            logger.warning(
                f"{self.source}: skipped {total} {self.what} ({reasons}): {', '.join(self.examples)}{more}"
            )
