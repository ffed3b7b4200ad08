"""Shift alignment on pyramids whose every cell knows its own level and position."""

from __future__ import annotations

from typing import Dict, List, Tuple

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from ssod.detectors.features import FeatureGroup, FeatureMaps
from ssod.methods.lsm import shift_aligned_levels
from ssod.methods.shared.half_size import (
    half_size,
    half_size_box_features,
    half_size_levels,
    main_branch_levels,
    pool_at_levels,
    pooling_levels,
)

STRIDES = (4, 8, 16, 32)
NAMES = ["p2", "p3", "p4", "p5"]


def pyramid(height: int, width: int, pixel: float, images: int = 1) -> List[torch.Tensor]:
    """P2..P5 of an image: channels are level, image, and the cell's centre in pixels of the
    full-size image.

    Args:
        pixel: full-size pixels that one pixel of this image covers a side.
    """
    levels = []
    for level, stride in enumerate(STRIDES):
        h, w = -(-height // stride), -(-width // stride)
        y = ((torch.arange(h) + 0.5) * stride * pixel)[:, None].expand(h, w)
        x = ((torch.arange(w) + 0.5) * stride * pixel)[None, :].expand(h, w)
        cells = torch.stack([torch.full((h, w), float(level)), torch.zeros(h, w), x, y])
        maps = cells[None].repeat(images, 1, 1, 1)
        maps[:, 1] = torch.arange(images)[:, None, None]
        levels.append(maps)
    return levels


def pooler(size: int = 7) -> ROIPooler:
    return ROIPooler(size, [1 / s for s in STRIDES], 2, "ROIAlignV2")


# Side lengths that FPN's rule (224 pixels: P4) sends to P2, P3, P4 and P5.
BOXES = {
    0: (70.0, 90.0, 150.0, 190.0),
    1: (64.0, 40.0, 190.0, 200.0),
    2: (100.0, 60.0, 400.0, 330.0),
    3: (40.0, 30.0, 600.0, 580.0),
}


def test_shifted_levels() -> None:
    assert shift_aligned_levels(torch.tensor([0, 1, 2, 3])).tolist() == [0, 0, 1, 2]
    assert shift_aligned_levels(torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("level", BOXES)
def test_both_branches_see_the_same_place(level: int) -> None:
    box = [Boxes(torch.tensor([BOXES[level]]))]
    levels = main_branch_levels(pooler(), box)
    assert levels.tolist() == [level]
    main = pooler()(pyramid(640, 640, 1.0), box)[0]
    half = [Boxes(own.tensor * 0.5) for own in box]
    shifted = shift_aligned_levels(levels)
    ours = pool_at_levels(pooler(), pyramid(320, 320, 2.0), half, shifted)[0]
    assert main[0].unique().tolist() == [level]
    assert ours[0].unique().tolist() == [max(level - 1, 0)]
    # Positions, in pixels of the full-size image, bin by bin; and they are where the box is.
    assert torch.allclose(main[2:], ours[2:], atol=1e-3)
    x0, y0, x1, y1 = BOXES[level]
    steps = (torch.arange(7) + 0.5) / 7
    assert torch.allclose(ours[2, 0], x0 + steps * (x1 - x0), atol=1e-3)
    assert torch.allclose(ours[3, :, 0], y0 + steps * (y1 - y0), atol=1e-3)


@pytest.mark.parametrize("level", BOXES)
def test_same_grid_of_cells_except_from_p2(level: int) -> None:
    """With the cell's own indices in place of pixels: the P2 clamp alone halves the resolution."""
    box = [Boxes(torch.tensor([BOXES[level]]))]
    main = pooler()(pyramid(640, 640, 1.0), box)[0, 2:] / STRIDES[level]
    half, shifted = [Boxes(box[0].tensor * 0.5)], max(level - 1, 0)
    maps = pyramid(320, 320, 1.0)
    ours = pool_at_levels(pooler(), maps, half, torch.tensor([shifted]))[0, 2:] / STRIDES[shifted]
    assert torch.allclose(main, ours * (2 if level == 0 else 1), atol=1e-4)


@pytest.mark.parametrize("size", [(640, 640), (97, 131), (1, 1), (2, 5)])
def test_half_pixels_lie_where_the_full_ones_do(size: Tuple[int, int]) -> None:
    """Each pixel of the half-size image is the mean of the pixels it covers, so boxes times 0.5 are
    exact.
    """
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    half = half_size(image)
    assert half.shape == (3, -(-size[0] // 2), -(-size[1] // 2))
    for y, x in ((0, 0), (half.shape[1] - 1, half.shape[2] - 1)):
        block = image[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].float()
        assert torch.allclose(half[:, y, x], block.mean(dim=(1, 2)), atol=1e-4)


def test_own_levels_pool_as_detectron2() -> None:
    torch.manual_seed(1)
    maps = [torch.randn(2, 5, 640 // s, 640 // s, requires_grad=True) for s in STRIDES]
    boxes = [Boxes(torch.tensor([BOXES[k] for k in (3, 0)])), Boxes(torch.tensor([BOXES[1]]))]
    levels = main_branch_levels(pooler(), boxes)
    found = pool_at_levels(pooler(), maps, boxes, levels)
    assert torch.equal(found, pooler()(maps, boxes))
    found.sum().backward()
    assert maps[2].grad is None or maps[2].grad.abs().sum() == 0
    assert maps[3].grad is not None and maps[3].grad.abs().sum() > 0


class Heads:
    """The parts of `StandardROIHeads` that pooling needs. The box head keeps the middle bin."""

    box_in_features = NAMES
    box_pooler = pooler(3)

    @staticmethod
    def box_head(pooled: torch.Tensor) -> torch.Tensor:
        return pooled[:, :, 1, 1]


def test_images_of_several_groups_keep_their_order() -> None:
    def group(indices: List[int], side: int) -> FeatureGroup:
        maps: Dict[str, torch.Tensor] = dict(zip(NAMES, pyramid(side, side, 2.0, len(indices))))
        return FeatureGroup(indices, maps, maps, [(side, side)] * len(indices))

    maps = FeatureMaps([group([0, 2], 320), group([1], 256)], 3)
    boxes = [
        Boxes(torch.tensor([BOXES[1], BOXES[2]])),
        Boxes(torch.tensor([[10.0, 20.0, 40.0, 60.0]])),
        Boxes(torch.zeros(0, 4)),
    ]
    found = half_size_box_features(Heads(), maps, NAMES[:-1], boxes)  # type: ignore[arg-type]
    assert found.shape == (3, 4)
    assert found[:, 0].tolist() == [0, 1, 0]  # P3 -> P2^d, P4 -> P3^d, P2 -> P2^d
    centres = torch.tensor([[127.0, 120.0], [250.0, 195.0], [25.0, 40.0]])
    assert torch.allclose(found[:, 2:], centres, atol=1e-3)


def test_which_half_size_maps_there_are() -> None:
    assert half_size_levels(NAMES, {*NAMES, "p6"}) == ["p2", "p3", "p4"]
    assert half_size_levels(["p3", "p4", "p5", "p6"], {*NAMES, "p6"}) == ["p2", "p3", "p4", "p5"]
    assert half_size_levels(["p3", "p4", "p5"], ["p3", "p4", "p5", "p6"]) == ["p3", "p4"]
    assert half_size_levels(["res4"], ["res4"]) == ["res4"]


@pytest.mark.parametrize("level", BOXES)
def test_a_box_head_from_p3_on_is_aligned_without_a_clamp(level: int) -> None:
    """PseCo's P3-P6: the same cells of P_{l-1}^d as of P_l, for P3 too, because the backbone also
    makes P2.
    """

    class Head:
        box_in_features = ["p3", "p4", "p5"]
        box_pooler = ROIPooler(7, [1 / s for s in STRIDES[1:]], 2, "ROIAlignV2")

        @staticmethod
        def box_head(pooled: torch.Tensor) -> torch.Tensor:
            return pooled

    box, heads = [Boxes(torch.tensor([BOXES[level]]))], Head()
    full, half = pyramid(640, 640, 1.0), pyramid(320, 320, 2.0)
    names = half_size_levels(heads.box_in_features, NAMES)
    main = heads.box_pooler(full[1:], box)[0]
    maps = dict(zip(NAMES, half))
    group = FeatureMaps([FeatureGroup([0], maps, maps, [(320, 320)])], 1)
    ours = half_size_box_features(heads, group, names, box)[0]  # type: ignore[arg-type]
    assert main[0].unique().tolist() == [max(level, 1)]
    assert ours[0].unique().tolist() == [max(level, 1) - 1]
    assert pooling_levels(heads, names, box).tolist() == [max(level, 1) - 1]  # type: ignore[arg-type]
    assert torch.allclose(main[2:], ours[2:], atol=1e-3)
    # Equal strides in pixels of the full-size image mean the same grid of cells.
    cells = pyramid(320, 320, 1.0)
    own = FeatureMaps([FeatureGroup([0], dict(zip(NAMES, cells)), {}, [(320, 320)])], 1)
    found = half_size_box_features(heads, own, names, box)[0]  # type: ignore[arg-type]
    shifted = max(level, 1) - 1
    assert torch.allclose(main[2:] / STRIDES[shifted + 1], found[2:] / STRIDES[shifted], atol=1e-4)
