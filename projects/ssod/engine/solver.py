"""Optimisers, gradient clipping and scaling to another number of processes."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Iterable, List

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params
from torch import Tensor, nn

from ssod.errors import UserError
from ssod.methods import get_method

logger = logging.getLogger(__name__)

_CLIP_TYPES = ("value", "norm", "full_model")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """`SOLVER.OPTIMIZER` over all parameters of `model` that require gradients, in Detectron2's
    groups.

    Raises:
        UserError: the optimiser or `SOLVER.CLIP_GRADIENTS.CLIP_TYPE` does not exist.
    """
    solver = cfg.SOLVER
    _clip_type(cfg)
    kinds: Dict[str, Callable[..., torch.optim.Optimizer]] = {
        "SGD": torch.optim.SGD,
        "AdamW": torch.optim.AdamW,
    }
    if solver.OPTIMIZER not in kinds:
        raise UserError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: use {' or '.join(kinds)}.")
    options: Dict[str, Any] = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "SGD":
        options.update(momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    groups = slow_backbone(groups, model, solver.BACKBONE_MULTIPLIER)
    kind = kinds[solver.OPTIMIZER]
    try:
        optimizer = kind(groups, fused=True, **options)  # three times as fast as foreach on the CPU
    except (RuntimeError, TypeError):  # not for this device or PyTorch
        optimizer = kind(groups, foreach=True, **options)
    start_momentum(optimizer)
    return optimizer


def slow_backbone(
    groups: List[Dict[str, Any]], model: nn.Module, factor: float
) -> List[Dict[str, Any]]:
    """Gives the backbone's parameters `factor` times their learning rate, in separate groups.

    If the backbone is an FPN, this concerns its `bottom_up`, because the FPN's own layers learn
    from scratch.
    """
    if factor <= 0.0:
        raise UserError(f"SOLVER.BACKBONE_MULTIPLIER is {factor}: use a number above 0.")
    if factor == 1.0:
        return groups
    names = [name.split(".") for name, _ in model.named_parameters()]
    part = "bottom_up" if any("bottom_up" in name for name in names) else "backbone"
    slow = {id(p) for name, p in model.named_parameters() if part in name.split(".")}
    if not slow:
        raise UserError(
            f"SOLVER.BACKBONE_MULTIPLIER is {factor}, but the model has no part called backbone: set it to 1."
        )
    result: List[Dict[str, Any]] = []
    for is_slow in (False, True):  # the first group's rate is logged, so it must be BASE_LR's
        for group in groups:
            members = [p for p in group["params"] if (id(p) in slow) == is_slow]
            if members:
                rate = group["lr"] * (factor if is_slow else 1.0)
                result.append({**group, "params": members, "lr": rate})
    return result


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Gives SGD its missing momentum buffers, filled with zeros, as its first step assumes.

    If the gradient scaler skips the first step, fused SGD allocates these buffers without filling
    them, and continues with whatever the memory held. It also fails if only some parameters have a
    buffer.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                optimizer.state[parameter].setdefault(
                    "momentum_buffer", torch.zeros_like(parameter)
                )


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Gives the optimiser's averages the layout of their parameters, which fused optimisers need.

    The averages of a checkpoint have the layout of the run that wrote it.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                if value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(value)


def _clip_type(cfg: CfgNode) -> str:
    kind = cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED and kind not in _CLIP_TYPES:
        raise UserError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {kind!r}: use {', '.join(_CLIP_TYPES)}."
        )
    return str(kind)


@torch.no_grad()
def clip_gradients(cfg: CfgNode, parameters: Iterable[Tensor]) -> None:
    """Clips gradients in place as `SOLVER.CLIP_GRADIENTS` says. It does nothing if clipping is not
    enabled.

    "value" clamps each element to +-CLIP_VALUE. "norm" shrinks each parameter's gradient to the
    norm CLIP_VALUE, as in Detectron2. "full_model" does so with the norm over all parameters.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return
    kind = _clip_type(cfg)
    with_grad = [p for p in parameters if p.grad is not None]
    grads: List[Tensor] = [p.grad for p in with_grad if p.grad is not None]
    if not grads:
        return
    if kind == "value":
        torch.nn.utils.clip_grad_value_(with_grad, clip.CLIP_VALUE)
    elif kind == "full_model":
        torch.nn.utils.clip_grad_norm_(with_grad, clip.CLIP_VALUE, clip.NORM_TYPE)
    else:
        norms = torch.stack(torch._foreach_norm(grads, clip.NORM_TYPE))
        factors = (clip.CLIP_VALUE / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(factors.unbind()))


def scale_config(cfg: CfgNode, world_size: int) -> CfgNode:
    """The config for `world_size` processes instead of `SOLVER.REFERENCE_WORLD_SIZE`, at the same
    images per process.

    Batches and the learning rate grow by the factor, and step counts shrink by it. One new step
    then stands for `factor` old steps, so the teacher's decay becomes `decay ** factor`. Methods
    scale their own keys.

    Returns:
        A new config, or the same one if there is nothing to scale (reference 0 or equal).
    """
    old = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if old in (0, world_size):
        return cfg
    factor = world_size / old
    frozen = cfg.is_frozen()
    before, cfg = cfg, cfg.clone()
    cfg.defrost()
    solver, ssod = cfg.SOLVER, cfg.SSOD
    solver.IMS_PER_BATCH = _batch("SOLVER.IMS_PER_BATCH", solver.IMS_PER_BATCH, old, world_size)
    ssod.IMS_PER_BATCH_UNLABELED = _batch(
        "SSOD.IMS_PER_BATCH_UNLABELED", ssod.IMS_PER_BATCH_UNLABELED, old, world_size
    )
    solver.BASE_LR *= factor
    solver.STEPS = tuple(_steps(step, factor) for step in solver.STEPS)
    for node, key in (
        (solver, "MAX_ITER"),
        (solver, "WARMUP_ITERS"),
        (solver, "CHECKPOINT_PERIOD"),
        (cfg.TEST, "EVAL_PERIOD"),
        (ssod, "BURN_IN_STEPS"),
        (ssod, "VIS_PERIOD"),
    ):
        node[key] = _steps(node[key], factor)
    ssod.EMA.DECAY = ssod.EMA.DECAY**factor
    for name in ssod.METHODS:
        get_method(name).scale_config(cfg, factor)
    solver.REFERENCE_WORLD_SIZE = world_size
    changed = ", ".join(f"{key} {was} -> {now}" for key, was, now in _differences(before, cfg))
    logger.info(f"Scaled from {old} to {world_size} processes: {changed}")
    if frozen:
        cfg.freeze()
    return cfg


def _batch(key: str, images: int, old: int, new: int) -> int:
    if images % old:
        raise UserError(
            f"{key} {images} is not a multiple of SOLVER.REFERENCE_WORLD_SIZE {old}: change one of them."
        )
    return images // old * new


def _steps(steps: int, factor: float) -> int:
    """Scales a step count. 0 means "never" for periods and stays 0. No other count may become 0."""
    return max(1, int(round(steps / factor))) if steps > 0 else steps


def _differences(before: CfgNode, after: CfgNode, prefix: str = "") -> List[Any]:
    found: List[Any] = []
    for key, now in after.items():
        was = before[key]
        if isinstance(now, CfgNode):
            found += _differences(was, now, f"{prefix}{key}.")
        elif was != now:
            found.append((prefix + key, was, now))
    return found
