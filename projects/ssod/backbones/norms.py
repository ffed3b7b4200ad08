"""What becomes of a backbone's BatchNorm: frozen, live, or GroupNorm in its place."""

from __future__ import annotations

import math
from typing import Callable

from torch import nn

from ssod.errors import UserError

NORMS = ("frozen", "live", "GN")
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def set_norm(module: nn.Module, norm: str) -> nn.Module:
    """Replaces every BatchNorm inside a timm model. Other norms, such as LayerNorm, are left alone.

    Args:
        module: a timm model, or a part of one; changed in place.
        norm: "frozen": statistics and affine parameters are constants, as in Detectron2's
            FrozenBatchNorm2d. "live": nothing changes. "GN": GroupNorm of at most 32 groups with
            the same affine parameters.

    Returns:
        The module, or its replacement where it is a BatchNorm itself.

    Raises:
        UserError: there is no such norm.
    """
    if norm not in NORMS:
        raise UserError(f"MODEL.TIMM.NORM is {norm!r}: use {', '.join(map(repr, NORMS))}.")
    if norm == "live":
        return module
    return freeze_batch_norm(module) if norm == "frozen" else _replace(module, _group_norm)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """BatchNorm with constant statistics, in train mode too.

    timm's BatchNormAct2d has its activation inside. timm's own conversion keeps it; Detectron2's
    `FrozenBatchNorm2d.convert_frozen_batchnorm` would drop it.
    """
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(module)


def _replace(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> nn.Module:
    if isinstance(module, _BATCH_NORMS):
        return convert(module)
    for name, child in module.named_children():
        new = _replace(child, convert)
        if new is not child:
            setattr(module, name, new)
    return module


def _group_norm(norm: nn.Module) -> nn.Module:
    from timm.layers import GroupNormAct

    assert isinstance(norm, _BATCH_NORMS)
    channels = norm.num_features
    groups = math.gcd(32, channels)
    if hasattr(norm, "act"):
        new: nn.GroupNorm = GroupNormAct(channels, groups, eps=norm.eps)
        new.drop, new.act = norm.drop, norm.act
    else:
        new = nn.GroupNorm(groups, channels, eps=norm.eps)
    if norm.affine:
        new.weight, new.bias = norm.weight, norm.bias
    return new.train(norm.training)
