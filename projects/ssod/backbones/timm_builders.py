"""`build_timm_backbone` and `build_timm_fpn_backbone`: a timm model from `MODEL.TIMM`, with or without FPN."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import nn

from ssod.backbones.freezing import freeze_stages
from ssod.backbones.input_statistics import build_input_conversion
from ssod.backbones.names import match_in_order, match_names
from ssod.backbones.norms import set_norm
from ssod.backbones.packages import weights_in_package
from ssod.backbones.timm_backbone import (
    TimmBackbone,
    create_full,
    default_indices,
    import_timm,
)
from ssod.errors import UserError
from ssod.utils.tensor_file import load_tensor_file, unnest

logger = logging.getLogger(__name__)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The feature levels of `MODEL.TIMM.NAME`.

    Raises:
        UserError: timm is not installed or has no such model, level or norm.
    """
    node = cfg.MODEL.TIMM
    timm = import_timm()
    full = create_full(node.NAME)
    indices = tuple(node.OUT_INDICES) or tuple(default_indices(full))
    try:
        body = timm.create_model(
            node.NAME, pretrained=node.PRETRAINED, features_only=True, out_indices=indices
        )
    except (AssertionError, IndexError, RuntimeError) as error:
        raise UserError(
            f"MODEL.TIMM: the levels {indices} of {node.NAME} cannot be had ({error}): check OUT_INDICES."
        ) from None
    body = set_norm(body, node.NORM)
    real = not any(p.is_meta for p in body.parameters())
    if node.WEIGHTS_PACKAGE and real:
        load_package(body, full, node.WEIGHTS_PACKAGE)
    freeze_stages(body, full, node.FREEZE_AT)
    data: Any = full.pretrained_cfg
    to_input = build_input_conversion(cfg, name=node.NAME, mean=data["mean"], std=data["std"])
    return TimmBackbone(body, to_input)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN on the levels of `MODEL.TIMM.NAME` that `MODEL.FPN.IN_FEATURES` names; all of them where it is empty."""
    bottom_up = build_timm_backbone(cfg, input_shape)
    return FPN(
        bottom_up=bottom_up,
        in_features=list(cfg.MODEL.FPN.IN_FEATURES) or list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def load_package(body: nn.Module, full: nn.Module, package: str) -> None:
    """Puts the weights of a package into `body`, by name or else one to one in order.

    Args:
        full: the whole model, which tells names and shapes of all tensors.

    Raises:
        UserError: there is no such file, or it holds another architecture.
    """
    path = weights_in_package(package)
    source = unnest(load_tensor_file(path))["model"]
    target = full.state_dict()
    pairs = match_names(source, target)
    how = "by name"
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
    logger.info(f"{path}: loaded {len(chosen)} of the backbone's {len(state)} tensors, {how}.")
