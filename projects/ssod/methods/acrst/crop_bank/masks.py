"""Masks in the CropBank: storage of pseudo-labels' masks, and scaling.

The bank keeps a pseudo-label's mask as a grid of GRID x GRID cells over its box. This is the
resolution of Detectron2's mask heads. Masks of labelled objects are kept pixel by pixel.

Shapes: M masks.
"""

from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np
from detectron2.structures import BitMasks
from torch import Tensor

GRID = 28
# A grid is packed into whole numbers of _BITS bits, which float64 holds exactly.
_BITS = 49
COLUMNS = GRID * GRID // _BITS
_POWERS = 2.0 ** np.arange(_BITS)


def pack_grids(grids: np.ndarray) -> np.ndarray:
    """bool (M, GRID, GRID) -> float64 (M, COLUMNS)."""
    return grids.reshape(len(grids), COLUMNS, _BITS) @ _POWERS


def unpack_grid(packed: np.ndarray) -> np.ndarray:
    """float64 (COLUMNS,) -> bool (GRID, GRID)."""
    bits = (packed.astype(np.int64)[:, None] >> np.arange(_BITS)) & 1
    return bits.astype(bool).reshape(GRID, GRID)


def label_grids(masks: Tensor, boxes: Tensor, matrix: np.ndarray) -> np.ndarray:
    """Converts masks in a view to grids in the coordinates of the image file.

    Args:
        masks: bool (M, H, W) in the view. boxes: (M, 4) around the masks.
        matrix: (2, 3) from the file to the view (`Geometry`). It may mirror the image and turn it
            by 90 degrees.

    Returns:
        bool (M, GRID, GRID) on the CPU.
    """
    grids = BitMasks(masks).crop_and_resize(boxes, GRID).cpu().numpy()
    (a, b), (c, d) = matrix[:, :2].tolist()
    x_scale, y_scale = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        grids, x_scale, y_scale = grids.transpose(0, 2, 1), c, b
    return grids[:, :: -1 if y_scale < 0 else 1, :: -1 if x_scale < 0 else 1]


def scale_mask(mask: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Resizes a bool mask to (height, width). A pixel is set if the mask covers half of it or more.

    A thin mask may cover half of no pixel. Then all pixels that it touches are set.
    """
    if mask.shape == size:
        return mask
    shrinks = size[0] * size[1] < mask.size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    share = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=how)
    return share >= 0.5 if (share >= 0.5).any() else share > 0
