"""RoIAlign by matrix products: the gradient of torchvision's, for every box a detector can
propose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import pytest
import torch
from detectron2.layers import ROIAlign
from torchvision.ops import roi_align

from runs import train
from ssod.detectors.fast_ops import plain_ops, use_fast_ops
from ssod.detectors.fast_roi_align import (
    FastROIAlign,
    interpolation_weights,
    roi_align_backward,
    use_fast_roi_align,
)
from ssod.errors import UserError
from tiny import tiny_cfg, with_squares


def rois_of_all_kinds(count: int, side: float) -> torch.Tensor:
    """Inside, over every border, outside, of no area, reversed, larger than the map."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 4, generator=generator) * 1.6 * side - 0.3 * side
    boxes = torch.cat([torch.minimum(*corners.split(2, 1)), torch.maximum(*corners.split(2, 1))], 1)
    odd = [[5, 5, 5, 5], [9, 2, 4, 8], [-side, -side, 3 * side, 3 * side], [0, 0, side, side]]
    odd += [[-9 * side, 0, -8 * side, 5], [side - 1, side - 1, side + 9, side + 9]]
    boxes = torch.cat([boxes, torch.tensor(odd, dtype=torch.float32)])
    return torch.cat([torch.arange(len(boxes))[:, None].float() % 3, boxes], 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_gradient_equals_torchvisions(scale: float, ratio: int, aligned: bool) -> None:
    rois = rois_of_all_kinds(40, 20 / scale)
    maps = torch.randn(3, 5, 20, 24, dtype=torch.float64, requires_grad=True)
    pooled = roi_align(maps, rois.double(), 7, scale, ratio, aligned)
    gradient = torch.randn_like(pooled)
    pooled.backward(gradient)
    found = roi_align_backward(gradient, rois.double(), (3, 5, 20, 24), scale, ratio, aligned)
    torch.testing.assert_close(found, maps.grad, rtol=1e-9, atol=1e-11)


def test_weights_by_hand() -> None:
    # One bin of 2 cells from 0.5 on: samples at 1.0 and 2.0, half each.
    found = interpolation_weights(torch.tensor([0.5]), torch.tensor([2.0]), 1, 4, 0)
    assert found.tolist() == [[[0.0, 0.5, 0.5, 0.0]]]
    # A sample at 2.75 between the cells 2 and 3; one at 3.5 has no neighbour to share with.
    found = interpolation_weights(torch.tensor([2.5, 3.25]), torch.tensor([0.5, 0.5]), 1, 4, 0)
    assert found.tolist() == [[[0.0, 0.0, 0.25, 0.75]], [[0.0, 0.0, 0.0, 1.0]]]
    # More than a cell outside: nothing.
    found = interpolation_weights(torch.tensor([-3.0]), torch.tensor([1.0]), 1, 4, 0)
    assert not found.any()


def test_no_rois_and_images_without_rois() -> None:
    assert not roi_align_backward(
        torch.zeros(0, 2, 7, 7), torch.zeros(0, 5), (2, 2, 8, 8), 1.0, 0, True
    ).any()
    maps = torch.randn(3, 2, 8, 8, requires_grad=True)
    layer = FastROIAlign(7, 1.0, 0, True)
    layer(maps, torch.tensor([[1.0, 1.0, 1.0, 6.0, 6.0]])).sum().backward()
    assert not maps.grad[0].any() and maps.grad[1].any() and not maps.grad[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_is_its_base_class_to_rounding(dtype: torch.dtype) -> None:
    rois = rois_of_all_kinds(30, 80.0)
    found = []
    for kind in (ROIAlign, FastROIAlign):
        torch.manual_seed(0)
        maps = torch.randn(3, 4, 20, 20).to(dtype).requires_grad_()
        pooled = kind(7, 0.25, 0, True)(maps.float(), rois)
        (pooled * torch.arange(7.0)).sum().backward()
        found.append((pooled.detach(), maps.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-3)


def test_only_detectron2s_own_layers_are_turned() -> None:
    class Mine(ROIAlign):
        pass

    model = torch.nn.ModuleList([ROIAlign(7, 1.0, 0), Mine(7, 1.0, 0), torch.nn.Linear(1, 1)])
    assert use_fast_roi_align(model) == 1
    assert [type(layer) for layer in model[:2]] == [FastROIAlign, Mine]


def test_plain_operations_come_back() -> None:
    model = torch.nn.ModuleList([ROIAlign(7, 1.0, 0)])
    use_fast_ops(model, ("roi_align",))
    with plain_ops(model):
        assert type(model[0]) is ROIAlign
    assert type(model[0]) is FastROIAlign
    with pytest.raises(UserError, match="no operation 'pool': use roi_align, channels_last"):
        use_fast_ops(model, ("pool",))


def test_training_is_the_same_to_rounding(squares: Path, tmp_path: Path) -> None:
    losses = []
    for ops in ((), ("roi_align",), ("channels_last",)):
        cfg = with_squares(tiny_cfg(), squares, tmp_path / str(ops), ("ScoreThreshold",))
        cfg.SSOD.FAST_OPS, cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS = ops, 2, 1
        history = train(cfg).storage.histories()
        losses.append([value for value, _ in history["total_loss"].values()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("first, then", [((), ("channels_last",)), (("channels_last",), ())])
def test_a_run_goes_on_in_another_layout(
    squares: Path, tmp_path: Path, optimizer: str, first: Tuple[str, ...], then: Tuple[str, ...]
) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path, ("ScoreThreshold",))
    cfg.SSOD.FAST_OPS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.OPTIMIZER = first, 1, optimizer
    train(cfg)
    cfg.SSOD.FAST_OPS, cfg.SOLVER.MAX_ITER = then, 2
    trainer = train(cfg, resume=True)
    for model in (trainer.core.student, trainer.core.teacher):
        weight = model.backbone.fpn_output2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == bool(then)
    weight = trainer.core.student.backbone.fpn_output2.weight
    averages = [v for v in trainer._trainer.optimizer.state[weight].values() if v.dim() == 4]
    assert averages and all(value.stride() == weight.stride() for value in averages)
