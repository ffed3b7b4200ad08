"""Image-level mixing: MixUp and Mosaic of an image with labelled ones, and the labels that result.

Shapes: images are uint8 (H, W, 3); P labels of one image; boxes are XYXY in absolute pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from ssod.data.masks import tight_boxes
from ssod.methods.acrst.crop_bank.visibility import hide_pixels
from ssod.structures import WEIGHT_COLUMNS, append_labels


@dataclass
class Tile:
    """A piece of a labelled image: its pixels (h, w, 3), its boxes (P, 4) and their classes (P,).

    `masks`: bool (P, h, w), or None if only boxes are trained.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: Optional[np.ndarray] = None


@dataclass
class MixedLabels:
    """The effect of mixing on one image's labels.

    Attributes:
        boxes, classes: (P, 4) float and (P,) int64 of the objects mixed in. weight: loss weight of
            these labels.
        own_region: (4,) box in which the image itself is still visible. own_weight: loss weight of
            the image's own labels.
        masks: bool (P, H, W) of the objects mixed in. None if only boxes are trained.
    """

    boxes: Tensor
    classes: Tensor
    weight: float
    own_region: Tensor
    own_weight: float
    masks: Optional[Tensor] = None


def clip_boxes(boxes: Tensor, region: Tensor) -> Tuple[Tensor, Tensor]:
    """Cuts boxes to a region.

    Args:
        boxes: (P, 4). region: (4,).

    Returns:
        (P, 4) clipped boxes, and (P,) the share of each box's area that is left, 0 for a box
        without area.
    """
    low, high = boxes[:, :2].maximum(region[:2]), boxes[:, 2:].minimum(region[2:])
    left = (high - low).clamp(min=0).prod(dim=1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    share = torch.where(area > 0, left / area.clamp(min=1e-12), torch.zeros_like(area))
    return torch.cat([low, high.maximum(low)], dim=1), share


def cover_tile(
    tile: Tile, height: int, width: int, rng: np.random.Generator, min_visible: float
) -> Tile:
    """Scales a labelled image until it just covers `height` x `width`, and cuts out a random window
    of that size.

    A box is removed if less than the share `min_visible` of its area is left, or nothing. With
    masks, the area is the number of mask pixels, and the remaining boxes are those around the
    masks.
    """
    old_height, old_width = tile.image.shape[:2]
    scale = max(height / old_height, width / old_width)
    new_height = max(height, round(old_height * scale))
    new_width = max(width, round(old_width * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(tile.image, (new_width, new_height), interpolation=how)
    top = int(rng.integers(0, new_height - height + 1))
    left = int(rng.integers(0, new_width - width + 1))
    stretch = np.array([new_width / old_width, new_height / old_height] * 2)
    moved = torch.from_numpy(tile.boxes * stretch - np.array([left, top] * 2)).float()
    window = torch.tensor([0.0, 0.0, width, height])
    boxes, share = clip_boxes(moved, window)
    masks = None
    if tile.masks is not None:
        moved_masks = [_resize_mask(mask, (new_height, new_width)) for mask in tile.masks]
        whole = np.array([m.sum() for m in moved_masks])
        cut = [m[top : top + height, left : left + width] for m in moved_masks]
        masks = np.array(cut, dtype=bool).reshape(-1, height, width)
        share = torch.from_numpy(masks.sum(axis=(1, 2)) / np.maximum(whole, 1))
        boxes = tight_boxes(torch.from_numpy(masks))
    keep = ((share >= min_visible) & (share > 0)).numpy()
    return Tile(
        image[top : top + height, left : left + width],
        boxes.numpy()[keep],
        tile.classes[keep],
        None if masks is None else masks[keep],
    )


def _resize_mask(mask: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    how = cv2.INTER_NEAREST  # as Detectron2 resizes masks
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=how) > 0


def draw_mosaic(
    height: int, width: int, center: Tuple[float, float], rng: np.random.Generator
) -> List[Tuple[int, ...]]:
    """The four regions (x0, y0, x1, y1) of a mosaic in random order. The image itself keeps the
    first one.

    Both sides must be at least 2. The regions meet at a point that lies between the two shares
    `center` of each side.
    """
    x = min(max(round(width * rng.uniform(*center)), 1), width - 1)
    y = min(max(round(height * rng.uniform(*center)), 1), height - 1)
    regions = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    return [regions[index] for index in rng.permutation(4)]


def mix_labels(row: Instances, mixed: MixedLabels, min_visible: float) -> Instances:
    """Pseudo-labels of the mixed image: its own labels that are still visible, then the labels
    mixed in.

    Args:
        row: the image's own labels, with `PseudoLabels`' columns and any others.
        mixed: the effect of mixing. min_visible: least share of a box's area that must be left.

    Returns:
        New `Instances`. Objects mixed in are labelled by people, so they have score 1, are selected
        and are regressed. Columns that are unknown here are 0 for them.
    """
    region = mixed.own_region.to(row.gt_boxes.device)
    boxes, share = clip_boxes(row.gt_boxes.tensor, region)
    fields = row.get_fields()
    if mixed.masks is not None:
        around = _surroundings(region, row.image_size)
        covered = torch.ones(row.image_size, dtype=torch.bool, device=boxes.device)
        x0, y0, x1, y1 = (int(v) for v in mixed.own_region)
        covered[y0:y1, x0:x1] = False
        boxes, masks, share = hide_pixels(row.gt_boxes.tensor, row.gt_masks.tensor, covered, around)
        boxes, fields = clip_boxes(boxes, region)[0], {**fields, "gt_masks": BitMasks(masks)}
    keep = (share >= min_visible) & (share > 0)
    own = Instances(row.image_size, **fields)
    own.gt_boxes = Boxes(boxes)
    for column in WEIGHT_COLUMNS:
        own.set(column, own.get(column) * mixed.own_weight)
    device = boxes.device
    ones = row.scores.new_ones(len(mixed.boxes))
    new = {
        "gt_boxes": mixed.boxes.to(boxes),
        "gt_masks": None if mixed.masks is None else mixed.masks.to(device),
        "gt_classes": mixed.classes.to(device),
        "scores": ones,
        "selected": ones.bool(),
        "rpn_selected": ones.bool(),
        **dict.fromkeys(WEIGHT_COLUMNS, mixed.weight * ones),
    }
    return append_labels(own[keep], new)


def _surroundings(region: Tensor, image_size: Tuple[int, int]) -> Tensor:
    """(4, 4) boxes that cover an image except for a region."""
    height, width = image_size
    x0, y0, x1, y1 = region.tolist()
    boxes = [[0, 0, width, y0], [0, y1, width, height], [0, 0, x0, height], [x1, 0, width, height]]
    return region.new_tensor(boxes)
