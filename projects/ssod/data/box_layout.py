"""Detects boxes in the wrong layout for their format: corners, or divided by the image's size."""

from __future__ import annotations

import logging
import math
from array import array
from typing import Optional, Sequence

import numpy as np

from ssod.errors import UserError

logger = logging.getLogger(__name__)

_TOLERANCE = 2.0  # pixels by which a box may leave its image, because labelling tools round
_FEW = 4  # least number of boxes from which a file's layout can be judged
_SOME, _MOST, _NEARLY_ALL = 0.2, 0.5, 0.95


class BoxLayout:
    """Looks at all boxes of a file together.

    The boxes are XYXY, converted on the assumption that the file has the format's layout.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._rows = array("d")

    def add(self, box: Sequence[float], height: Optional[int], width: Optional[int]) -> None:
        """Adds a box. The height and width of its image are None if unknown."""
        if len(box) == 4:
            self._rows.extend((*box, height or math.nan, width or math.nan))

    def check(self, corners: bool = False) -> None:
        """Judges the boxes.

        Args:
            corners: whether the format itself writes corners (VOC). Corners are not reported then.

        Raises:
            UserError: the boxes are certainly in another layout.
        """
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 6)
        rows = rows[np.isfinite(rows[:, :4]).all(axis=1)]
        x0, y0, x1, y1, height, width = rows.T
        # The numbers as they are written. In XYWH the second pair is the size.
        written = rows[:, :4] if corners else np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
        sized = (x1 > x0) & (y1 > y0)
        small = sized & (written <= 1.0 + 1e-6).all(axis=1)
        if sized.sum() > 1 and small.sum() == sized.sum():
            raise UserError(
                f"{self.source}: all boxes lie between 0 and 1, so they look normalised (divided by the image's "
                "width and height): multiply them, since boxes are in pixels here."
            )
        if small.any():
            logger.warning(
                f"{self.source}: {int(small.sum())} of {len(rows)} boxes lie between 0 and 1: are they normalised (divided by "
                "the image's width and height)? Boxes are in pixels here: multiply such boxes."
            )
        if len(rows) < _FEW:
            return
        if corners and sized.mean() <= 1.0 - _MOST:
            raise UserError(
                f"{self.source}: {int((~sized).sum())} of {len(rows)} boxes end where they begin or before it, so their numbers "
                "look like x, y, width, height, or like corners in another order: write xmin, ymin, xmax, ymax."
            )
        outside = (x1 > width + _TOLERANCE) | (y1 > height + _TOLERANCE)
        # The layout was XYWH, so x1 - x0 and y1 - y0 are the values read as width and height.
        far_x, far_y = x1 - x0, y1 - y0
        fits = (far_x > x0) & (far_y > y0) & ~(far_x > width + 1) & ~(far_y > height + 1)
        if not corners and fits.mean() >= _NEARLY_ALL and outside.mean() >= _SOME:
            raise UserError(
                f"{self.source}: {int(outside.sum())} of {len(rows)} boxes leave their image, and nearly all look like corners "
                "(XYXY: x0, y0, x1, y1) rather than XYWH (x, y, width, height): convert them to XYWH."
            )
        if outside.mean() >= _MOST:
            logger.warning(
                f"{self.source}: {int(outside.sum())} of {len(rows)} boxes leave their image: are they of images of "
                "another size, or in another layout than the format's? Correct them, or the FORMAT."
            )
