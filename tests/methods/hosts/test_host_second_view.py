"""The half-size view's levels lie where those of the full-size image lie."""

from __future__ import annotations

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from ssod.detectors.features import FeatureGroup, FeatureMaps
from ssod.methods.hosts.second_view import align_levels


def coordinates(height: int, width: int, stride: float) -> torch.Tensor:
    """A map whose channels are the x and y, in pixels of the full-size image, of its cells'
    centres.
    """
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) * stride, (torch.arange(width) + 0.5) * stride, indexing="ij"
    )
    return torch.stack([x, y])[None]


def test_levels_move_up_by_one() -> None:
    # A 128 x 256 image; at half its size P2 has stride 4 there, 8 in the whole image, and so on.
    features = {
        f"p{level}": coordinates(
            64 // 2 ** (level - 1), 128 // 2 ** (level - 1), 2.0 ** (level + 1)
        )
        for level in (2, 3, 4)
    }
    maps = FeatureMaps([FeatureGroup([0], features, {}, [(64, 128)])], 1)
    aligned = align_levels(maps, {"p3", "p4", "p5"}, [(128, 256)])
    group = aligned.groups[0]
    assert group.image_sizes == [(128, 256)] and set(group.features) == {"p3", "p4", "p5"}
    for level in (3, 4, 5):
        assert group.features[f"p{level}"] is features[f"p{level - 1}"]
    # So a pooler made for the full-size image finds every box, at every level, where it is.
    boxes = torch.tensor([[40.0, 30, 72, 62], [20.0, 10, 150, 120], [16.0, 16, 240, 112]])
    pooler = ROIPooler(1, [1 / 8, 1 / 16, 1 / 32], 2, "ROIAlignV2", canonical_box_size=64)
    found = pooler([group.features[f"p{level}"] for level in (3, 4, 5)], [Boxes(boxes)])
    torch.testing.assert_close(
        found[:, :, 0, 0], (boxes[:, :2] + boxes[:, 2:]) / 2, atol=0.1, rtol=0
    )


def test_the_finest_level_is_enlarged() -> None:
    finest = coordinates(8, 8, 8.0)
    maps = FeatureMaps([FeatureGroup([0], {"p2": finest, "res4": finest}, {}, [(32, 32)])], 1)
    group = align_levels(maps, ["p2", "res4"], [(64, 64)]).groups[0]
    assert group.features["p2"].shape == group.features["res4"].shape == (1, 2, 16, 16)
    assert group.features["p2"][0, :, 0, 3].tolist() == [12.0, 4.0]
