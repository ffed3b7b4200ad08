"""Optimisers, clipping, scaling, schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.solver import build_lr_scheduler
from torch import nn

from ssod.config import add_ssod_config
from ssod.engine.solver import build_optimizer, clip_gradients, match_layout, scale_config
from ssod.errors import UserError


def make_cfg(*opts: Any) -> CfgNode:
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


def test_groups_are_detectron2s() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2))
    model[0].weight.requires_grad_(False)
    cfg = make_cfg(
        "SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01, "SOLVER.WEIGHT_DECAY_NORM", 0.0
    )
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay == {id(model[0].bias): 0.01, id(model[1].weight): 0.0, id(model[1].bias): 0.0}


class Detector(nn.Module):
    """A backbone (an FPN or not) and a head."""

    def __init__(self, fpn: bool) -> None:
        super().__init__()
        inner = nn.ModuleDict({"bottom_up": nn.Linear(1, 1), "lateral": nn.Linear(1, 1)})
        self.backbone = inner if fpn else nn.Linear(1, 1)
        self.head = nn.Linear(1, 1)


@pytest.mark.parametrize("fpn, slow", [(True, "backbone.bottom_up."), (False, "backbone.")])
def test_learning_rate_of_the_backbone(fpn: bool, slow: str) -> None:
    model = Detector(fpn)
    cfg = make_cfg("SOLVER.BASE_LR", 0.1, "SOLVER.BACKBONE_MULTIPLIER", 0.3)
    cfg.merge_from_list(["SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0])
    optimizer = build_optimizer(cfg, model)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        rate = (0.2 if name.endswith("bias") else 0.1) * (0.3 if name.startswith(slow) else 1.0)
        decay = 0.0 if name.endswith("bias") else cfg.SOLVER.WEIGHT_DECAY
        assert found[id(parameter)] == pytest.approx((rate, decay)), name
    assert optimizer.param_groups[0]["lr"] in (0.1, 0.2)  # the first group's rate is logged
    assert len(found) == len(list(model.parameters()))


def test_factors_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="BACKBONE_MULTIPLIER is -0.5: use a number above 0"):
        build_optimizer(make_cfg("SOLVER.BACKBONE_MULTIPLIER", -0.5), Detector(True))
    with pytest.raises(UserError, match="BACKBONE_MULTIPLIER is 0.5, .* no part called backbone"):
        build_optimizer(make_cfg("SOLVER.BACKBONE_MULTIPLIER", 0.5), nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_fused_steps_equal_plain_ones(name: str) -> None:
    start = torch.randn(5)
    ours, plain = nn.Linear(5, 1, bias=False), nn.Linear(5, 1, bias=False)
    for model in (ours, plain):
        model.weight.data[0] = start
    optimizer = build_optimizer(make_cfg("SOLVER.OPTIMIZER", name, "SOLVER.BASE_LR", 0.1), ours)
    options = {"momentum": 0.9} if name == "SGD" else {}
    reference = getattr(torch.optim, name)(
        plain.parameters(), lr=0.1, weight_decay=1e-4, foreach=False, **options
    )
    for _ in range(3):
        for model, one in ((ours, optimizer), (plain, reference)):
            model.weight.grad = model.weight.detach() ** 2
            one.step()
    torch.testing.assert_close(ours.weight, plain.weight)


def test_unknown_choices() -> None:
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER is 'Adam': use SGD or AdamW"):
        build_optimizer(make_cfg("SOLVER.OPTIMIZER", "Adam"), nn.Linear(1, 1))
    cfg = make_cfg(
        "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norms"
    )
    with pytest.raises(UserError, match="CLIP_TYPE is 'norms'"):
        build_optimizer(cfg, nn.Linear(1, 1))


@pytest.mark.parametrize(
    "kind, first, second",
    [
        ("value", [2.0, 2.0], [0.5, 0.0]),
        ("norm", [1.2, 1.6], [0.5, 0.0]),  # norms 5 and 0.5, limit 2
        ("full_model", [3 * 2 / 25.25**0.5, 4 * 2 / 25.25**0.5], [0.5 * 2 / 25.25**0.5, 0.0]),
    ],
)
def test_clipping(kind: str, first: list, second: list) -> None:
    a, b, idle = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5, 0.0])
    clip = "SOLVER.CLIP_GRADIENTS."
    clip_gradients(make_cfg(), [a, b, idle])
    assert a.grad.tolist() == [3.0, 4.0]  # not enabled
    cfg = make_cfg(clip + "ENABLED", True, clip + "CLIP_TYPE", kind, clip + "CLIP_VALUE", 2.0)
    clip_gradients(cfg, [a, b, idle])
    assert a.grad.tolist() == pytest.approx(first, rel=1e-5)
    assert b.grad.tolist() == pytest.approx(second, rel=1e-5)
    assert idle.grad is None
    clip_gradients(cfg, [idle])


def test_per_parameter_norm_is_detectron2s() -> None:
    ours = [nn.Parameter(torch.zeros(n)) for n in (3, 40, 7)]
    theirs = [nn.Parameter(torch.zeros(n)) for n in (3, 40, 7)]
    for p, q in zip(ours, theirs):
        p.grad = torch.randn_like(p) * 3
        q.grad = p.grad.clone()
        torch.nn.utils.clip_grad_norm_(q, 0.7, 2.0)
    clip = "SOLVER.CLIP_GRADIENTS."
    clip_gradients(
        make_cfg(clip + "ENABLED", True, clip + "CLIP_TYPE", "norm", clip + "CLIP_VALUE", 0.7), ours
    )
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p.grad, q.grad)


def test_scaling_from_8_to_2_processes() -> None:
    cfg = make_cfg(
        *("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.08),
        *("SOLVER.MAX_ITER", 1000, "SOLVER.WARMUP_ITERS", 10, "SOLVER.STEPS", (500, 800)),
        *("SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 0, "SSOD.BURN_IN_STEPS", 50),
        *("SSOD.IMS_PER_BATCH_UNLABELED", 32, "SSOD.EMA.DECAY", 0.9984, "SSOD.VIS_PERIOD", 25),
    )
    cfg.freeze()
    scaled = scale_config(cfg, 2)
    assert scaled.is_frozen() and cfg.SOLVER.MAX_ITER == 1000
    solver, ssod = scaled.SOLVER, scaled.SSOD
    assert (solver.IMS_PER_BATCH, ssod.IMS_PER_BATCH_UNLABELED, solver.REFERENCE_WORLD_SIZE) == (
        4,
        8,
        2,
    )
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.STEPS) == (4000, 40, (2000, 3200))
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (400, 0)
    assert (ssod.BURN_IN_STEPS, ssod.VIS_PERIOD) == (200, 100)
    assert solver.BASE_LR == pytest.approx(0.02)
    assert ssod.EMA.DECAY**4 == pytest.approx(0.9984)  # four new steps forget what one old did
    assert scale_config(scaled, 2) is scaled


def test_scaling_scales_methods_and_checks_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssod.methods import get_method

    factors = []
    method = get_method("ScoreThreshold")
    monkeypatch.setattr(
        method, "scale_config", classmethod(lambda cls, cfg, factor: factors.append(factor))
    )
    opts = ("SOLVER.REFERENCE_WORLD_SIZE", 4, "SSOD.METHODS", ("ScoreThreshold",))
    scale_config(make_cfg(*opts), 1)
    assert factors == [0.25]
    with pytest.raises(UserError, match="SSOD.IMS_PER_BATCH_UNLABELED 6 is not a multiple"):
        scale_config(make_cfg(*opts, "SSOD.IMS_PER_BATCH_UNLABELED", 6), 1)


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize(
    "name, expected",
    [("WarmupMultiStepLR", {5: 1.0, 7: 0.1, 9: 0.01}), ("WarmupCosineLR", {5: 0.5, 9: 0.024472})],
)
def test_schedules(name: str, expected: dict, warmup: int) -> None:
    cfg = make_cfg(
        *("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (6, 8)),
        *("SOLVER.WARMUP_ITERS", warmup, "SOLVER.BASE_LR", 1.0, "SOLVER.WARMUP_FACTOR", 0.1),
    )
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.1 if warmup else 1.0)
    assert {step: rates[step] for step in expected} == pytest.approx(expected, rel=1e-4)


def test_averages_follow_the_layout_of_their_weights() -> None:
    layer = torch.nn.Conv2d(4, 4, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.rand(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    before = optimizer.state[layer.weight]["exp_avg"].clone()
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    match_layout(optimizer)
    found = optimizer.state[layer.weight]["exp_avg"]
    assert torch.equal(found, before)
    assert found.stride() == layer.weight.stride() != before.stride()
