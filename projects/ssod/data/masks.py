"""Instance masks: those of annotation files, brought to one form or refused.

Behind the readers every mask is an `Rle`: {"size": [H, W], "counts": bytes}, COCO's compressed
run-length encoding, in pixels of the image file.

Shapes: M masks of an image of (H, W).
"""

from __future__ import annotations

import math
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.structures import BitMasks
from pycocotools import mask as mask_util
from torch import Tensor

Rle = Dict[str, Any]

# Why an annotation has no usable mask; such annotations are counted by these texts.
NO_MASK = "without a mask"
_FEW_POINTS = "with a polygon of fewer than 3 points"
_BAD_POLYGON = "with a polygon that is no list of finite x, y, x, y, ..."
_BAD_RLE = "with a run-length encoding that does not fill the image"
_WRONG_SIZE = "with a mask of another size than the image"
_EMPTY = "with an empty mask"
_ELSEWHERE = "with a mask outside of its box"
_UNKNOWN_SIZE = "with polygons in an image of unknown size"

# COCO writes each run as characters of 5 bits; those from "P" on say that more follow.
_COMPRESSED = re.compile(rb"(?:[P-o]{0,12}[0-O])+")
# A box may be rounded otherwise than its mask.
_ROUNDING = 1.0


def read_mask(
    segmentation: Any,
    box: Sequence[float],
    height: Optional[int],
    width: Optional[int],
    *,
    is_crowd: bool = False,
) -> Tuple[Optional[Rle], Optional[str]]:
    """A mask as an `Rle`, or what is wrong with it.

    Args:
        segmentation: COCO's: polygons [[x, y, x, y, ...], ...], or a run-length encoding with
            "counts" as text or as a list of numbers.
        box: XYXY in pixels. height, width: of the image file; None where unknown.
        is_crowd: a crowd without a mask covers its box.

    Returns:
        (mask, None) or (None, problem). Parts of an object with fewer than 3 points are left out
        where others have more.
    """
    if segmentation is None or (isinstance(segmentation, (list, dict, str)) and not segmentation):
        if not is_crowd or height is None or width is None:
            return None, NO_MASK
        x0, y0, x1, y1 = box
        segmentation = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if isinstance(segmentation, dict):
        rle, problem = _read_rle(segmentation, height, width)
    else:
        rle, problem = _read_polygons(segmentation, height, width)
    if rle is None:
        return None, problem
    if not mask_util.area(rle):
        return None, _EMPTY
    x, y, w, h = mask_util.toBbox(rle)
    overlap_x = min(x + w, box[2]) - max(x, box[0]) + _ROUNDING
    overlap_y = min(y + h, box[3]) - max(y, box[1]) + _ROUNDING
    return (rle, None) if min(overlap_x, overlap_y) > 0 else (None, _ELSEWHERE)


def _read_polygons(
    polygons: Any, height: Optional[int], width: Optional[int]
) -> Tuple[Optional[Rle], Optional[str]]:
    if not isinstance(polygons, list):
        return None, _BAD_POLYGON
    parts: List[List[float]] = []
    for polygon in polygons:
        if not isinstance(polygon, (list, tuple)) or len(polygon) % 2:
            return None, _BAD_POLYGON
        if not all(type(v) in (int, float) and math.isfinite(v) for v in polygon):
            return None, _BAD_POLYGON
        if len(polygon) >= 6:
            parts.append([float(v) for v in polygon])
    if not parts:
        return None, _FEW_POINTS
    if height is None or width is None:
        return None, _UNKNOWN_SIZE
    # A number of a billion pixels would make the rasteriser allocate that many points.
    parts = [
        np.clip(np.reshape(p, (-1, 2)), -width - height, 2 * (width + height)).ravel().tolist()
        for p in parts
    ]
    return mask_util.merge(mask_util.frPyObjects(parts, height, width)), None


def _read_rle(
    segmentation: Dict[str, Any], height: Optional[int], width: Optional[int]
) -> Tuple[Optional[Rle], Optional[str]]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        return None, _WRONG_SIZE
    if not all(type(v) in (int, float) and 0 < v < 2**24 and v == int(v) for v in size):
        return None, _WRONG_SIZE
    own = [int(v) for v in size]
    if (height is not None and own[0] != height) or (width is not None and own[1] != width):
        return None, _WRONG_SIZE
    if isinstance(counts, list):
        if not all(type(v) is int and 0 <= v < 2**31 for v in counts):
            return None, _BAD_RLE
        if sum(counts) != own[0] * own[1]:
            return None, _BAD_RLE
        return mask_util.frPyObjects({"size": own, "counts": counts}, *own), None
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")
    if not isinstance(counts, bytes) or not _COMPRESSED.fullmatch(counts):
        return None, _BAD_RLE
    found = _runs(counts)
    # pycocotools writes behind its memory where the runs are longer than the image.
    if (found < 0).any() or found.sum() != own[0] * own[1]:
        return None, _BAD_RLE
    return {"size": own, "counts": counts}, None


def _runs(counts: bytes) -> np.ndarray:
    """The run lengths, int64, of compressed counts that match `_COMPRESSED`."""
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    last = (digits & 32) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    negative = (digits[ends] & 16) > 0
    values -= negative * (1 << (5 * (ends - starts + 1)))
    # From the fourth run on each is the difference to the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def is_rle(value: Any) -> bool:
    """Whether it is an `Rle`: polygons and other encodings are not."""
    return isinstance(value, dict) and isinstance(value.get("counts"), bytes)


def encode_mask(mask: np.ndarray) -> Rle:
    """The `Rle` of a bool (H, W) array."""
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def decode_mask(rle: Rle) -> np.ndarray:
    """Inverse of `encode_mask`."""
    return mask_util.decode(rle).astype(bool)


def mask_area(rle: Rle) -> int:
    """Number of pixels of a mask."""
    return int(mask_util.area(rle))


def as_json(rle: Rle) -> Dict[str, Any]:
    """An `Rle` with its counts as text, which JSON can hold."""
    counts = rle["counts"]
    return {
        "size": [int(v) for v in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def tight_boxes(masks: Tensor) -> Tensor:
    """XYXY around bool masks, without a loop and without waiting for the device.

    Args:
        masks: bool (M, H, W).

    Returns:
        (M, 4) float32 in whole pixels; zeros for an empty mask.

    Example:
        >>> masks = torch.zeros(1, 4, 6, dtype=torch.bool)
        >>> masks[0, 1:3, 2:5] = True
        >>> tight_boxes(masks)
        tensor([[2., 1., 5., 3.]])
    """
    sides = []
    for along in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        count = along.shape[1]
        index = torch.arange(count, device=masks.device)
        low = torch.where(along, index, count).amin(dim=1) if count else index.new_zeros(len(masks))
        high = torch.where(along, index + 1, 0).amax(dim=1) if count else low
        sides.append((low, high))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * (x1 > 0)[:, None]


def bit_masks(masks: Sequence[np.ndarray], image_size: Tuple[int, int]) -> BitMasks:
    """`BitMasks` of M bool or uint8 (H, W) arrays; of none, too."""
    if not len(masks):
        return BitMasks(torch.zeros(0, *image_size, dtype=torch.bool))
    return BitMasks(torch.from_numpy(np.stack([np.ascontiguousarray(m) for m in masks]) > 0))


class RleMasks:
    """M masks of one image as a column of `Instances` that takes little memory.

    Indexing gives `RleMasks`; iterating decodes, mask by mask, to uint8 (H, W) arrays.
    """

    def __init__(self, rles: Sequence[Rle]) -> None:
        self.rles = list(rles)

    @classmethod
    def encode(cls, masks: Tensor) -> "RleMasks":
        """From bool (M, H, W)."""
        return cls([encode_mask(mask) for mask in masks.cpu().numpy()])

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (mask_util.decode(rle) for rle in self.rles)

    def __getitem__(self, rows: Any) -> "RleMasks":
        """Rows by a slice, an int64 (N,) or a bool (M,) tensor."""
        if isinstance(rows, slice):
            return RleMasks(self.rles[rows])
        return RleMasks([self.rles[i] for i in torch.arange(len(self))[rows.cpu()].tolist()])
