"""A timm model from `MODEL.TIMM`: alone, with FPN, and with the FPN of RetinaNet and FCOS."""

from __future__ import annotations

import logging
from typing import Any, List

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ssod.backbones.freezing import freeze_stages
from ssod.backbones.input_statistics import build_input_conversion
from ssod.backbones.names import match_in_order, match_names
from ssod.backbones.norms import set_norm
from ssod.backbones.packages import weights_in_package
from ssod.backbones.timm_backbone import TimmBackbone
from ssod.backbones.timm_models import create_features, create_full, default_indices
from ssod.errors import UserError
from ssod.utils.tensor_file import load_tensor_file, unnest

logger = logging.getLogger(__name__)


def brings_weights(cfg: CfgNode) -> bool:
    """Whether the config's backbone is timm's and has weights of its own before MODEL.WEIGHTS is
    loaded.
    """
    named = "_timm_" in cfg.MODEL.BACKBONE.NAME
    return named and bool(cfg.MODEL.TIMM.PRETRAINED or cfg.MODEL.TIMM.WEIGHTS_PACKAGE)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The feature levels of `MODEL.TIMM.NAME`.

    `MODEL.WEIGHTS` is loaded later and replaces all weights. If it is set, PRETRAINED and
    WEIGHTS_PACKAGE are not read.

    Raises:
        UserError: timm is not installed or has no such model, level, stage or norm; or weights
            cannot be had.
    """
    node = cfg.MODEL.TIMM
    full = create_full(node.NAME)
    own_weights = not cfg.MODEL.WEIGHTS
    body = create_features(
        full,
        node.NAME,
        tuple(node.OUT_INDICES) or default_indices(full),
        pretrained=node.PRETRAINED and own_weights and not node.WEIGHTS_PACKAGE,
        channels=input_shape.channels,
    )
    body = set_norm(body, node.NORM)
    meta = any(parameter.is_meta for parameter in body.parameters())
    if node.WEIGHTS_PACKAGE and own_weights and not meta:
        load_package(body, full, node.WEIGHTS_PACKAGE)
    freeze_stages(body, full, node.FREEZE_AT)
    data: Any = full.pretrained_cfg
    to_input = None
    if input_shape.channels == len(data["mean"]):
        to_input = build_input_conversion(cfg, name=node.NAME, mean=data["mean"], std=data["std"])
    # In single precision on a GPU it costs about as much as it saves.
    channels_last = str(cfg.MODEL.DEVICE).startswith("cpu") or cfg.SOLVER.AMP.ENABLED
    return TimmBackbone(body, to_input, channels_last)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN on the levels that `MODEL.FPN.IN_FEATURES` names, or on all levels if it is empty.

    Max pooling gives p6.
    """
    bottom_up = build_timm_backbone(cfg, input_shape)
    pool = LastLevelMaxPool()
    last = bottom_up.output_shape()[_in_features(cfg, bottom_up)[-1]].stride
    pool.in_feature = f"p{last.bit_length() - 1}"  # Detectron2 takes "p5" for granted
    return _pyramid(cfg, bottom_up, pool)


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The same with convolutions for the two levels above, as RetinaNet and FCOS have them."""
    bottom_up = build_timm_backbone(cfg, input_shape)
    last = _in_features(cfg, bottom_up)[-1]
    channels, out_channels = bottom_up.output_shape()[last].channels, cfg.MODEL.FPN.OUT_CHANNELS
    return _pyramid(cfg, bottom_up, LastLevelP6P7(channels, out_channels, in_feature=last))


def _pyramid(cfg: CfgNode, bottom_up: TimmBackbone, top_block: nn.Module) -> FPN:
    names = _in_features(cfg, bottom_up)
    strides = [bottom_up.output_shape()[name].stride for name in names]
    powers = all(stride.bit_count() == 1 for stride in strides)
    if not powers or any(high != 2 * low for low, high in zip(strides, strides[1:])):
        raise UserError(
            f"FPN needs levels of stride 4, 8, 16 and so on, and {cfg.MODEL.TIMM.NAME} gives {', '.join(map(str, strides))}: change "
            "MODEL.TIMM.OUT_INDICES or MODEL.FPN.IN_FEATURES, or take build_timm_backbone."
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=names,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _in_features(cfg: CfgNode, bottom_up: TimmBackbone) -> List[str]:
    """The levels that FPN is built on. Raises `UserError` for a name that is no level."""
    levels = list(bottom_up.output_shape())
    names = list(cfg.MODEL.FPN.IN_FEATURES) or levels
    for name in names:
        if name not in levels:
            raise UserError(
                f"MODEL.FPN.IN_FEATURES: there is no feature {name!r}; {cfg.MODEL.TIMM.NAME} has {', '.join(levels)} "
                "(MODEL.TIMM.OUT_INDICES chooses them)."
            )
    return names


def load_package(body: nn.Module, full: nn.Module, package: str) -> None:
    """Puts the weights of a package into `body`, by name.

    If the names do not fit, one to one in order.

    Args:
        full: the whole model, which tells names and shapes of all tensors.

    Raises:
        UserError: there is no such file, or it holds another architecture.
    """
    path = weights_in_package(package)
    source = unnest(load_tensor_file(path))["model"]
    target = full.state_dict()
    pairs, how = match_names(source, target), "by name"
    if not pairs:
        pairs, how = match_in_order(source, target), "one to one, in order"
    renamed = {name: source[other] for name, other in pairs.items()}
    state = body.state_dict()
    chosen = match_names(renamed, state)
    if not chosen:
        raise UserError(
            f"MODEL.TIMM.WEIGHTS_PACKAGE {package}: {path} fits no tensor of this model: check MODEL.TIMM.NAME."
        )
    body.load_state_dict({name: renamed[other] for name, other in chosen.items()}, strict=False)
    total = sum(not name.endswith("num_batches_tracked") for name in state)
    logger.info(f"{path}: loaded {len(chosen)} of the backbone's {total} tensors, {how}.")
