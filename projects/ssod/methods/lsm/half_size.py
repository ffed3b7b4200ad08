"""The half-size image and where its feature pyramid holds what the main one holds (LSM, section 3.3, "shift alignment").

Level `P_i^d` of an image of half the size has the stride, in pixels of the full-size image, of the main branch's `P_{i+1}`.

Shapes: N images, R boxes over all of them, D channels after the box head, L levels that the box head pools from (index 0 is
the finest, P2).
"""

from __future__ import annotations

from typing import List, Sequence

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

from ssod.modeling.features import FeatureMaps

SCALE = 0.5


def half_size(image: Tensor) -> Tensor:
    """Means over 2 x 2 pixels; a last odd row or column is averaged by itself.

    So pixel (i, j) covers exactly the full-size pixels 2i, 2i+1 and 2j, 2j+1 whatever the size: boxes times 0.5 are exact,
    which a resize of an odd side to a whole number of pixels would not be.

    Args:
        image: (3, H, W), any type.

    Returns:
        float (3, ceil(H / 2), ceil(W / 2)).
    """
    return F.avg_pool2d(image[None].float(), 2, ceil_mode=True)[0]


def shift_aligned_levels(main_levels: Tensor) -> Tensor:
    """From the level that the main branch pools a RoI from to PIM's: one finer, P2 stays P2^d.

    Both then cover the RoI with the same grid, except from P2, which P2^d covers with half as many cells a side.

    Args:
        main_levels: int64, any shape; 0 = P2, 1 = P3, 2 = P4, 3 = P5.

    Returns:
        The same shape; 0 = P2^d, 1 = P3^d, 2 = P4^d.
    """
    return (main_levels - 1).clamp(min=0)


def pooling_levels(pooler: ROIPooler, boxes: Sequence[Boxes]) -> Tensor:
    """(R,) int64: the level that the main branch pools each box from; N `Boxes` of the full-size images."""
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
    """Detectron2's `ROIPooler.forward` with levels of our choice.

    Args:
        features: L maps (n, C, h, w). boxes: n `Boxes`, in pixels of the images that the maps come from.
        levels: (R,) int64 in [0, L).

    Returns:
        (R, C, size, size).
    """
    rois = convert_boxes_to_pooler_format(list(boxes))
    output = features[0].new_zeros((len(rois), features[0].shape[1], *pooler.output_size))
    for level, (maps, layer) in enumerate(zip(features, pooler.level_poolers)):
        rows = (levels == level).nonzero().flatten()
        output.index_put_((rows,), layer(maps, rois[rows]))
    return output


def half_size_box_features(
    roi_heads: StandardROIHeads, maps: FeatureMaps, boxes: Sequence[Boxes]
) -> Tensor:
    """Pools boxes of the full-size images, shift-aligned, from the maps of the half-size images; then the box head.

    Args:
        maps: of N half-size images. boxes: N `Boxes` in pixels of the full-size images.

    Returns:
        (R, D), in the order of the images.
    """
    parts: List[Tensor] = [torch.empty(0)] * maps.num_images
    for group in maps.groups:
        # In single precision, as the main branch pools.
        features = [group.features[name].float() for name in roi_heads.box_in_features]
        chosen = [boxes[index] for index in group.indices]
        levels = shift_aligned_levels(pooling_levels(roi_heads.box_pooler, chosen))
        half = [Boxes(own.tensor * SCALE) for own in chosen]
        pooled = roi_heads.box_head(pool_at_levels(roi_heads.box_pooler, features, half, levels))
        for index, part in zip(group.indices, pooled.split([len(own) for own in chosen])):
            parts[index] = part
    return torch.cat(parts)
