"""Boxes around the shapes that annotation tools draw. Boxes are XYXY, angles are degrees clockwise
on the screen.
"""

from __future__ import annotations

import math
from typing import List, Sequence, Tuple

Point = Tuple[float, float]


def box_around(points: Sequence[Point]) -> List[float]:
    """The smallest XYXY box around points. [] if there are none."""
    if not points:
        return []
    xs, ys = zip(*points)
    return [min(xs), min(ys), max(xs), max(ys)]


def ordered(x0: float, y0: float, x1: float, y1: float) -> List[float]:
    """The XYXY box of two opposite corners in any order."""
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def rotate(points: Sequence[Point], degrees: float, pivot: Point) -> List[Point]:
    """Points turned about the pivot."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    px, py = pivot
    return [
        (px + (x - px) * cos - (y - py) * sin, py + (x - px) * sin + (y - py) * cos)
        for x, y in points
    ]


def corners_of(box: Sequence[float]) -> List[Point]:
    """The four corners of an XYXY box."""
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def box_around_ellipse(
    cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0
) -> List[float]:
    """The XYXY box around an ellipse that is turned about its centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return [cx - half_width, cy - half_height, cx + half_width, cy + half_height]
