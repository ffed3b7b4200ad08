"""Anchors of one pass found in another with other padding."""

from __future__ import annotations

from typing import Any, Tuple

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes

from ssod.detectors.anchor_grid import AnchorGrid
from ssod.detectors.features import extract_features
from ssod.detectors.rcnn.rpn import objectness_of, run_rpn
from ssod.structures import make_targets
from tiny import tiny_cfg


def test_same_location_in_a_wider_grid() -> None:
    # Two levels of 2 x 3 and 1 x 2 locations, three anchors at each: 18 and 6.
    small = AnchorGrid(((2, 3), (1, 2)), (3, 3))
    large = AnchorGrid(((3, 4), (2, 2)), (3, 3))
    # (level 0, y 0, x 0, a 0), (0, 0, 2, 1), (0, 1, 0, 2), (1, 0, 0, 0), (1, 0, 1, 2)
    indices = torch.tensor([0, 7, 11, 18, 23])
    # (1, 0, 1, 2) is 36 + 1 * 3 + 2.
    wanted = torch.tensor([0, 7, 14, 36, 41])
    found, inside = small.find_in(large, indices)
    assert torch.equal(found, wanted) and inside.all()
    back, inside = large.find_in(small, wanted)
    assert torch.equal(back, indices) and inside.all()


def test_locations_that_are_not_there() -> None:
    small = AnchorGrid(((2, 3), (1, 2)), (3, 3))
    large = AnchorGrid(((3, 4), (2, 2)), (3, 3))
    # (0, 0, 3, 0), (0, 2, 0, 0), (1, 1, 0, 0): outside; the last anchor of level 0 inside.
    indices = torch.tensor([9, 24, 36 + 6, (4 + 2) * 3 + 2])
    found, inside = large.find_in(small, indices)
    assert inside.tolist() == [False, False, False, True]
    assert (found >= 0).all() and (found < 24).all() and found[3] == (3 + 2) * 3 + 2
    assert small.find_in(small, indices)[0] is indices


@pytest.mark.parametrize(
    "sizes", [((64, 64), (64, 96)), ((96, 64), (64, 64)), ((64, 96), (96, 64))]
)
def test_anchors_are_found_under_other_padding(sizes: Tuple, storage: Any) -> None:
    """Two images in one pass, padded to a common size, and each alone."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg())
    rpn = model.proposal_generator
    torch.nn.init.normal_(rpn.rpn_head.objectness_logits.weight, std=3.0)
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes]
    box = torch.tensor([[4.0, 4, 30, 30]])
    targets = [make_targets(size, box, torch.tensor([0])) for size in sizes]
    grids = set()
    with torch.no_grad():
        _, sampled = run_rpn(rpn, extract_features(model, images), targets)
        for index, anchors in enumerate(sampled):
            alone = extract_features(model, images[index : index + 1])
            maps = [alone.groups[0].features[name] for name in rpn.in_features]
            grid = AnchorGrid.of(maps, rpn.anchor_generator.num_cell_anchors)
            indices, inside = anchors.grid.find_in(grid, anchors.indices)
            boxes = Boxes.cat(rpn.anchor_generator(maps)).tensor
            assert inside.any() and len(indices) == len(anchors.labels)
            assert torch.equal(boxes[indices[inside]], anchors.sampled_boxes[inside])
            logits = torch.cat([m.permute(0, 2, 3, 1).flatten() for m in rpn.rpn_head(maps)[0]])
            (found,) = objectness_of(rpn, alone, [anchors])
            assert torch.allclose(found[inside], logits[indices[inside]].sigmoid())
            assert (found[~inside] == 0).all()
            grids.add(grid)
    padded = {anchors.grid for anchors in sampled}
    assert len(padded) == 1 and grids != padded  # they did share a pass
