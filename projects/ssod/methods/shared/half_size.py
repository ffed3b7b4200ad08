"""The half-size image, and the match of its feature levels with the main branch's (LSM, section
3.3).

In pixels of the full-size image, level `P_i^d` of the half-size image has the stride of the main
branch's `P_{i+1}`.

Shapes: N images, R boxes over all of them, D channels after the box head, L half-size maps (index 0
is the finest, P2^d).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Collection, List, Optional, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor

from ssod.detectors.features import FeatureMaps
from ssod.detectors.outputs import Outputs
from ssod.structures import Views

SCALE = 0.5
# The key in `Views.extra` and `Outputs.extra`. All methods share it, so that the images go through
# the backbone once.
HALF_SIZE = "half_size"


def half_size(image: Tensor) -> Tensor:
    """Means over 2 x 2 pixels. A last odd row or column is averaged by itself.

    Pixel (i, j) covers exactly the full-size pixels 2i, 2i+1 and 2j, 2j+1, so boxes times 0.5 are
    exact. An ordinary resize of an odd side would shift them.

    Args:
        image: (3, H, W), any type.

    Returns:
        float (3, ceil(H / 2), ceil(W / 2)).

    Example:
        >>> half_size(torch.full((3, 5, 8), 7, dtype=torch.uint8)).shape
        torch.Size([3, 3, 4])
    """
    return F.avg_pool2d(image[None].float(), 2, ceil_mode=True)[0]


def add_half_size_view(views: Views) -> Views:
    """Adds the strong unlabelled images at half their size to the backbone's input."""
    if views.unlabeled is None:
        return views
    images = [half_size(image) for image in views.unlabeled.images]
    return replace(views, extra={**views.extra, HALF_SIZE: images})


def level_below(name: str, available: Collection[str]) -> Optional[str]:
    """p3 -> p2 if p2 is available, otherwise None.

    Example:
        >>> level_below("p3", ["p2", "p3"]), level_below("p2", ["p2", "p3"])
        ('p2', None)
    """
    found = re.fullmatch(r"(\D+)(\d+)", name)
    below = f"{found.group(1)}{int(found.group(2)) - 1}" if found else ""
    return below if below in available else None


def half_size_levels(names: Sequence[str], available: Collection[str]) -> List[str]:
    """The half-size maps from which RoIs are pooled, in the order of `half_size_box_features`'s
    levels.

    A box head on P2-P5 has no level finer than P2. A box head on P3-P6 has one if the backbone also
    makes P2.

    Args:
        names: the box head's levels, the finest first. available: the backbone's levels.
    """
    finer = level_below(names[0], available)
    if finer:
        return [finer, *names[:-1]]
    # The coarsest level's RoIs move one level down, so that its own half-size map is never used.
    return list(names[:-1] or names)


def idle_gradient(outputs: Outputs) -> Tensor:
    """A zero that depends on every map of the backbone.

    A level that is used only for half-size images gets no gradient in burn-in, but DDP needs one.
    """
    groups = outputs.labeled.maps.groups
    corners = [maps[0, 0, 0, 0] for group in groups for maps in group.features.values()]
    return 0.0 * torch.stack(corners).float().sum()


def shift_aligned_levels(main_levels: Tensor) -> Tensor:
    """Maps the main branch's level of a RoI to the half-size level. This is one level finer, and
    P2^d for P2.

    Both levels then cover the RoI with the same number of cells. The exception is P2: P2^d has half
    as many cells along each side.

    Args:
        main_levels: int64, any shape. 0 = P2, 1 = P3, 2 = P4, 3 = P5.

    Returns:
        The same shape. 0 = P2^d, 1 = P3^d, 2 = P4^d.

    Example:
        >>> shift_aligned_levels(torch.tensor([0, 1, 2, 3]))
        tensor([0, 0, 1, 2])
    """
    return (main_levels - 1).clamp(min=0)


def main_branch_levels(pooler: ROIPooler, boxes: Sequence[Boxes]) -> Tensor:
    """(R,) int64: the level from which the main branch pools each box. The boxes are N `Boxes` of
    the full-size images.
    """
    return assign_boxes_to_levels(
        list(boxes),
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )


def pool_at_levels(
    pooler: ROIPooler, features: Sequence[Tensor], boxes: Sequence[Boxes], levels: Tensor
) -> Tensor:
    """Detectron2's `ROIPooler.forward` with the levels given.

    Args:
        features: L maps (n, C, h, w), at most as many as the pooler has levels. Map i is pooled
            with the stride of the pooler's level i. boxes: n `Boxes`. levels: (R,) int64 in [0, L).

    Returns:
        (R, C, size, size).
    """
    rois = convert_boxes_to_pooler_format(list(boxes))
    output = features[0].new_zeros((len(rois), features[0].shape[1], *pooler.output_size))
    for level, (maps, layer) in enumerate(zip(features, pooler.level_poolers)):
        rows = (levels == level).nonzero().flatten()
        output.index_put_((rows,), layer(maps, rois[rows]))
    return output


def pooling_levels(
    roi_heads: StandardROIHeads, names: Sequence[str], boxes: Sequence[Boxes]
) -> Tensor:
    """(R,) int64: the half-size map from which each box of the full-size images is pooled, as an
    index of `names` (see `half_size_levels`).
    """
    levels = main_branch_levels(roi_heads.box_pooler, boxes)
    # If the box head's finest level is P3, P2^d is there too.
    return shift_aligned_levels(levels + int(_has_finer(roi_heads, names)))


def _has_finer(roi_heads: StandardROIHeads, names: Sequence[str]) -> bool:
    return names[0] != roi_heads.box_in_features[0]


def half_size_box_features(
    roi_heads: StandardROIHeads, maps: FeatureMaps, names: Sequence[str], boxes: Sequence[Boxes]
) -> Tensor:
    """Pools boxes of the full-size images, shift-aligned, from the maps of the half-size images,
    and applies the box head.

    Args:
        maps: maps of N half-size images. names: names from `half_size_levels`. boxes: N `Boxes` in
            pixels of the full-size images.

    Returns:
        (R, D), in the order of the images.
    """
    pooler = roi_heads.box_pooler
    # The pooler's level i has the stride of P_i. If there is a finer map, level i gets P_{i-1}^d,
    # whose stride is the same in pixels of the full-size image. Otherwise it gets P_i^d, whose
    # stride is the same in pixels of the half-size image.
    scale = 1.0 if _has_finer(roi_heads, names) else SCALE
    parts: List[Tensor] = [torch.empty(0)] * maps.num_images
    for group in maps.groups:
        # The main branch pools in single precision, so this does too.
        features = [group.features[name].float() for name in names]
        if hasattr(pooler, "affine"):  # DeFRCN's pooler maps the features first
            features = pooler.affine(features)
        chosen = [boxes[index] for index in group.indices]
        levels = pooling_levels(roi_heads, names, chosen)
        scaled = [Boxes(own.tensor * scale) for own in chosen]
        pooled = roi_heads.box_head(pool_at_levels(pooler, features, scaled, levels))
        for index, part in zip(group.indices, pooled.split([len(own) for own in chosen])):
            parts[index] = part
    return torch.cat(parts)
