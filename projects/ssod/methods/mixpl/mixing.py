"""MixUp and Mosaic of images on the device, with whatever labels they carry.

Shapes: images are uint8 (3, H, W); M labels of one image; boxes are XYXY in pixels.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch.nn import functional

Labelled = Tuple[Tensor, Instances]
_GREY = 114  # of mosaic pixels that no tile covers
_MIN_SIDE = 1.0  # boxes with a shorter side, in pixels, teach nothing


def placed(
    labels: Instances, scale: float, size: Tuple[int, int], corner: Tuple[int, int]
) -> Instances:
    """The labels of an image that is scaled and put onto a canvas.

    Args:
        labels: with `gt_boxes`, perhaps `gt_masks`, and any other columns, which stay.
        size: (height, width) of the canvas. corner: (y, x) of the image's corner there.

    Returns:
        New `Instances` of the canvas. Boxes are cut at its edges, and those with a side below a
        pixel are left out.
    """
    y, x = corner
    boxes = Boxes(
        labels.gt_boxes.tensor * scale + torch.tensor([x, y, x, y]).to(labels.gt_boxes.device)
    )
    boxes.clip(size)
    moved = Instances(size)
    for name, value in labels.get_fields().items():
        if name == "gt_boxes":
            moved.gt_boxes = boxes
        elif name == "gt_masks":
            moved.gt_masks = BitMasks(_placed_masks(value.tensor, scale, size, corner))
        else:
            moved.set(name, value)
    sides = boxes.tensor[:, 2:] - boxes.tensor[:, :2]
    return moved[(sides >= _MIN_SIDE).all(dim=1)]


def _placed_masks(
    masks: Tensor, scale: float, size: Tuple[int, int], corner: Tuple[int, int]
) -> Tensor:
    canvas = masks.new_zeros((len(masks), *size))
    if len(masks):
        small = scaled(masks, scale, "nearest")
        y, x = corner
        height, width = min(small.shape[1], size[0] - y), min(small.shape[2], size[1] - x)
        canvas[:, y : y + height, x : x + width] = small[:, :height, :width]
    return canvas


def scaled(images: Tensor, scale: float, mode: str = "bilinear") -> Tensor:
    """(C, H, W) of any type, resized by a factor; bilinear is antialiased and rounded."""
    if scale == 1.0:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[1:]]
    values = images[None].float()
    if mode == "nearest":
        return functional.interpolate(values, size=size, mode=mode)[0].to(images.dtype)
    found = functional.interpolate(values, size=size, mode=mode, antialias=True)[0]
    return found.round().clamp(0, 255).to(images.dtype)


def mixup(first: Labelled, second: Labelled) -> Labelled:
    """The mean of two images, with the labels of both.

    They lie corner on corner. Where only one of them reaches, it is seen alone.
    """
    images = [first[0], second[0]]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    total = torch.zeros((3, height, width), device=images[0].device)
    count = torch.zeros((1, height, width), device=images[0].device)
    for image in images:
        total[:, : image.shape[1], : image.shape[2]] += image
        count[:, : image.shape[1], : image.shape[2]] += 1
    mean = (total / count.clamp(min=1)).round().to(torch.uint8)
    labels = [placed(rows, 1.0, (height, width), (0, 0)) for rows in (first[1], second[1])]
    return mean, joined(labels)


def mosaic(parts: Sequence[Labelled]) -> Labelled:
    """Four images, each shrunk into a quarter of the first one's size, with all their labels.

    Sides keep their ratio, so a part of another shape leaves a grey margin.
    """
    height, width = parts[0][0].shape[1:]
    canvas = torch.full_like(parts[0][0], _GREY)
    rows, columns = (0, height // 2, height), (0, width // 2, width)
    found: List[Instances] = []
    for index, (image, labels) in enumerate(parts):
        y, x = rows[index // 2], columns[index % 2]
        tile_height, tile_width = rows[index // 2 + 1] - y, columns[index % 2 + 1] - x
        scale = min(tile_height / image.shape[1], tile_width / image.shape[2])
        small = scaled(image, scale)[:, :tile_height, :tile_width]
        canvas[:, y : y + small.shape[1], x : x + small.shape[2]] = small
        found.append(placed(labels, scale, (height, width), (y, x)))
    return canvas, joined(found)


def joined(labels: Sequence[Instances]) -> Instances:
    """All labels on one canvas; `gt_index`, where they have it, counts them anew."""
    found = Instances.cat(list(labels))
    if found.has("gt_index"):
        found.gt_index = torch.arange(len(found), device=found.gt_boxes.device)
    return found
