"""Detects boxes in the wrong layout for their format: corners, or divided by the image's size."""

from __future__ import annotations

import logging
import math
from array import array
from dataclasses import astuple, dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ssod.errors import UserError

logger = logging.getLogger(__name__)

_TOLERANCE = 2.0  # pixels by which a box may leave its image, because labelling tools round
_FEW = 4  # least number of boxes from which a file's layout can be judged
_BLOCK = 1 << 18  # boxes that are looked at in one go
_A_FEW, _SOME, _MOST, _NEARLY_ALL = 0.05, 0.2, 0.5, 0.95


@dataclass
class _Counts:
    """Boxes of a file: all finite ones, and those of some kinds."""

    boxes: int = 0
    sized: int = 0  # end behind their beginning
    small: int = 0  # sized, and all numbers lie between 0 and 1
    outside: int = 0  # leave their image
    corners: int = 0  # fit into their image if they are read as corners
    centres: int = 0  # fit into their image if they are read as centre and size

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(*(a + b for a, b in zip(astuple(self), astuple(other))))


class BoxLayout:
    """Looks at all boxes of a file together.

    The boxes are XYXY, converted on the assumption that the file has the format's layout.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._rows = array("d")
        self._tables: List[Tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, box: Sequence[float], height: Optional[int], width: Optional[int]) -> None:
        """Adds a box. The height and width of its image are None if unknown."""
        if len(box) == 4:
            self._rows.extend((*box, height or math.nan, width or math.nan))

    def add_all(self, boxes: np.ndarray, height: np.ndarray, width: np.ndarray) -> None:
        """Adds (A, 4) boxes. height, width: (A,), 0 where unknown."""
        self._tables.append((boxes, height, width))

    def _blocks(self) -> Iterator[np.ndarray]:
        yield np.array(self._rows, dtype=np.float64).reshape(-1, 6)
        for boxes, height, width in self._tables:
            for start in range(0, len(boxes), _BLOCK):
                part = slice(start, start + _BLOCK)
                sizes = np.stack([height[part], width[part]], axis=1).astype(np.float64)
                sizes[sizes == 0] = math.nan
                yield np.concatenate([boxes[part], sizes], axis=1)

    def check(self, corners: bool = False) -> None:
        """Judges the boxes.

        Args:
            corners: whether the format itself writes corners (VOC). Corners are not reported then.

        Raises:
            UserError: the boxes are certainly in another layout.
        """
        found = sum((_count(rows, corners) for rows in self._blocks()), _Counts())
        if found.sized > 1 and found.small == found.sized:
            raise UserError(
                f"{self.source}: all boxes lie between 0 and 1, so they look normalised (divided by the image's "
                "width and height): multiply them, since boxes are in pixels here."
            )
        if found.small:
            logger.warning(
                f"{self.source}: {found.small} of {found.boxes} boxes lie between 0 and 1: are they normalised (divided by "
                "the image's width and height)? Boxes are in pixels here: multiply such boxes."
            )
        if found.boxes < _FEW:
            return
        if corners and found.sized / found.boxes <= 1.0 - _MOST:
            raise UserError(
                f"{self.source}: {found.boxes - found.sized} of {found.boxes} boxes end where they begin or before it, so their numbers "
                "look like x, y, width, height, or like corners in another order: write xmin, ymin, xmax, ymax."
            )
        outside = found.outside / found.boxes
        if not corners and found.corners / found.boxes >= _NEARLY_ALL and outside >= _SOME:
            raise UserError(
                f"{self.source}: {found.outside} of {found.boxes} boxes leave their image, and nearly all look like corners "
                "(XYXY: x0, y0, x1, y1) rather than XYWH (x, y, width, height): convert them to XYWH."
            )
        if not corners and found.centres / found.boxes >= _NEARLY_ALL and outside >= _A_FEW:
            logger.warning(
                f"{self.source}: {found.outside} of {found.boxes} boxes leave their image, and nearly all fit it as centre and "
                "size (cx, cy, width, height). Boxes begin with the upper left corner here: convert them if they have centres."
            )
        elif outside >= _MOST:
            logger.warning(
                f"{self.source}: {found.outside} of {found.boxes} boxes leave their image: are they of images of "
                "another size, or in another layout than the format's? Correct them, or the FORMAT."
            )


def _count(rows: np.ndarray, corners: bool) -> _Counts:
    """Args: rows: (A, 6) XYXY, height, width. corners: whether the file writes corners."""
    rows = rows[np.isfinite(rows[:, :4]).all(axis=1)]
    x0, y0, x1, y1, height, width = rows.T
    # The layout was XYWH, so these are the values read as width and height.
    far_x, far_y = x1 - x0, y1 - y0
    # The numbers as they are written. In XYWH the second pair is the size.
    written = rows[:, :4] if corners else np.stack([x0, y0, far_x, far_y], axis=1)
    sized = (x1 > x0) & (y1 > y0)
    small = sized & (written <= 1.0 + 1e-6).all(axis=1)
    outside = (x1 > width + _TOLERANCE) | (y1 > height + _TOLERANCE)
    fits = (far_x > x0) & (far_y > y0) & ~(far_x > width + 1) & ~(far_y > height + 1)
    centred = _within(x0, far_x, width) & _within(y0, far_y, height)
    kinds = (sized, small, outside, fits, centred)
    return _Counts(len(rows), *(int(kind.sum()) for kind in kinds))


def _within(centre: np.ndarray, length: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Whether intervals lie in [0, side], to the tolerance. False where the side is unknown."""
    low, high = centre - length / 2, centre + length / 2
    return (low >= -_TOLERANCE) & (high <= side + _TOLERANCE)
