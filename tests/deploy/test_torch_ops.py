"""Operators of PyTorch's own give what torchvision's give."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms, nms, roi_align

from deploy_rig import boxes_of
from ssod.deploy import torch_ops
from ssod.errors import UserError


def test_suppression_by_hand() -> None:
    """The second box overlaps the first, the third only the second: the third stays."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert torch_ops.nms(boxes, scores, 0.4).tolist() == [0, 2]
    assert torch_ops.nms(boxes, scores, 0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1, 40, 300])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_suppression(count: int, threshold: float) -> None:
    boxes, scores, groups = boxes_of(count)
    assert torch.equal(torch_ops.nms(boxes, scores, threshold), nms(boxes, scores, threshold))
    for kind in (torch_ops.batched_nms, torch.jit.script(torch_ops.batched_nms)):
        found = kind(boxes, scores, groups, threshold)
        assert torch.equal(found, batched_nms(boxes, scores, groups, threshold))


@pytest.mark.parametrize("count", [1000, 1001])
def test_suppression_on_both_sides_of_the_limit(count: int) -> None:
    """Up to 1,000 boxes torchvision moves the groups apart, which rounds coordinates."""
    boxes, scores, groups = boxes_of(count)
    groups = groups * 1_000_000 + 7  # far apart, so that rounding shows
    expected = batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(torch_ops.batched_nms(boxes, scores, groups, 0.5), expected)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(aligned: bool, ratio: int) -> None:
    maps = torch.rand(1, 3, 20, 26, generator=torch.Generator().manual_seed(1))
    boxes = boxes_of(30)[0]
    boxes[0] = torch.tensor([-500.0, -500, -400, -400])  # outside
    boxes[1] = torch.tensor([30.0, 30, 30, 30])  # without extent
    boxes[2] = torch.tensor([-20.0, -20, 200, 200])  # larger than the map
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
    for rows in (rois, rois[:0]):
        expected = roi_align(maps, rows, 4, 0.25, ratio, aligned)
        found = torch_ops.roi_align(maps, rows, 4, 0.25, ratio, aligned)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        scripted = torch.jit.script(torch_ops.roi_align)(maps, rows, 4, 0.25, ratio, aligned)
        torch.testing.assert_close(scripted, expected, rtol=1e-4, atol=1e-5)


def test_bins_must_be_square() -> None:
    from detectron2.layers import ROIAlign

    layer = ROIAlign((2, 3), 1.0, 0)
    with torch_ops.in_place(), pytest.raises(UserError, match="square"):
        layer(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5))
    assert layer(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5)).shape == (1, 1, 2, 3)
