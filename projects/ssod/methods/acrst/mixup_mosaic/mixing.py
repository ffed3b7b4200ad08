"""Image-level mixing: MixUp and Mosaic of an image with labelled ones, and the labels that result.

Shapes: images are uint8 (H, W, 3); P labels of one image; boxes are XYXY in absolute pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.structures import WEIGHT_COLUMNS


@dataclass
class Tile:
    """A piece of a labelled image: pixels (h, w, 3), boxes (P, 4) in it and their classes (P,)."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


@dataclass
class MixedLabels:
    """What mixing did to one image's labels.

    Attributes:
        boxes, classes: (P, 4) float and (P,) int64 of what was mixed in. weight: loss weight of
            these labels.
        own_region: (4,) box in which the image itself can still be seen. own_weight: loss weight of
            its own labels.
    """

    boxes: Tensor
    classes: Tensor
    weight: float
    own_region: Tensor
    own_weight: float


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

    Boxes of which less than `min_visible` (a share of the area) is left, or nothing, are gone.
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
    keep = ((share >= min_visible) & (share > 0)).numpy()
    return Tile(
        image[top : top + height, left : left + width], boxes.numpy()[keep], tile.classes[keep]
    )


def draw_mosaic(
    height: int, width: int, center: Tuple[float, float], rng: np.random.Generator
) -> List[Tuple[int, ...]]:
    """The four regions (x0, y0, x1, y1) of a mosaic in random order; the first one stays the
    image's own.

    Both sides must be at least 2. The regions meet at a point that lies between the two shares
    `center` of each side.
    """
    x = min(max(round(width * rng.uniform(*center)), 1), width - 1)
    y = min(max(round(height * rng.uniform(*center)), 1), height - 1)
    regions = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    return [regions[index] for index in rng.permutation(4)]


def mix_labels(row: Instances, mixed: MixedLabels, min_visible: float) -> Instances:
    """Pseudo-labels of the mixed image: its own that can still be seen, then those mixed in.

    Args:
        row: the image's own labels, with `PseudoLabels`' columns and any others.
        mixed: what was done. min_visible: least share of a box's area that must be left.

    Returns:
        New `Instances`; what was mixed in is human-labelled, so it has score 1, is selected and
        regresses. Columns that are unknown here are 0 for it.
    """
    boxes, share = clip_boxes(row.gt_boxes.tensor, mixed.own_region.to(row.gt_boxes.device))
    keep = (share >= min_visible) & (share > 0)
    own = Instances(row.image_size, **row.get_fields())
    own.gt_boxes = Boxes(boxes)
    for column in WEIGHT_COLUMNS:
        own.set(column, own.get(column) * mixed.own_weight)
    own = own[keep]
    added = Instances(row.image_size)
    count, device = len(mixed.boxes), boxes.device
    for name, value in own.get_fields().items():
        if name == "gt_boxes":
            added.gt_boxes = Boxes(mixed.boxes.to(boxes))
        elif name == "gt_classes":
            added.gt_classes = mixed.classes.to(device)
        elif name in WEIGHT_COLUMNS:
            added.set(name, value.new_full((count,), mixed.weight))
        elif name in ("scores", "selected", "rpn_selected"):
            added.set(name, value.new_ones(count))
        else:
            added.set(name, value.new_zeros(count, *value.shape[1:]))
    return Instances.cat([own, added])
