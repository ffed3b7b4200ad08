"""The common part of both models' builders."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from torch import nn

from ssod.detectors.detr.library import transformers_class
from ssod.detectors.detr.losses import Criterion
from ssod.errors import UserError


def build_levels(cfg: CfgNode, key: str) -> Backbone:
    """Detectron2's backbone, whose outputs `MODEL.<key>.IN_FEATURES` names.

    Raises:
        UserError: it has no such output, or they are not in order.
    """
    names = list(cfg.MODEL[key].IN_FEATURES)
    backbone = build_backbone(cfg)
    known = backbone.output_shape()
    if not names or not set(names) <= set(known):
        raise UserError(
            f"MODEL.{key}.IN_FEATURES is {names}: name outputs of the backbone, {', '.join(known)}."
        )
    steps = [known[name].stride for name in names]
    if steps != sorted(set(steps)):
        raise UserError(
            f"MODEL.{key}.IN_FEATURES {names} have the strides {steps}: name fine levels first."
        )
    return backbone


def stand_in(kind: str, levels: int, needed_by: str) -> Any:
    """The config of the smallest backbone of the library, which is replaced after the model is
    built.

    Args:
        kind: "ResNetConfig" or "RTDetrResNetConfig". levels: how many outputs it must have.
    """
    sizes = [8] * max(levels, 2)
    return transformers_class(kind, needed_by)(
        embedding_size=8,
        hidden_sizes=sizes,
        depths=[1] * len(sizes),
        layer_type="basic",
        out_features=[f"stage{index + 1}" for index in range(len(sizes) - levels, len(sizes))],
    )


def check_width(cfg: CfgNode, key: str) -> None:
    """Raises `UserError` if `HIDDEN_DIM` cannot be divided among heads and groups."""
    node = cfg.MODEL[key]
    if node.HIDDEN_DIM % 32 or node.HIDDEN_DIM % node.NHEADS:
        raise UserError(
            f"MODEL.{key}.HIDDEN_DIM is {node.HIDDEN_DIM}: use a multiple of 32 and of MODEL.{key}.NHEADS {node.NHEADS}."
        )


def build_criterion(node: CfgNode, varifocal: bool) -> Criterion:
    """Matching and losses as `MODEL.<key>` says."""
    return Criterion(
        num_classes=node.NUM_CLASSES,
        class_cost=node.CLASS_COST,
        l1_cost=node.L1_COST,
        giou_cost=node.GIOU_COST,
        class_weight=node.CLASS_WEIGHT,
        l1_weight=node.L1_WEIGHT,
        giou_weight=node.GIOU_WEIGHT,
        alpha=node.FOCAL_ALPHA,
        varifocal=varifocal,
    )


def common_arguments(cfg: CfgNode, node: CfgNode) -> Dict[str, Any]:
    """Arguments of `TransformerDetector` that do not depend on the model."""
    return {
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
        "score_thresh": node.SCORE_THRESH_TEST,
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
    }


def cells(height: int, width: int, strides: Sequence[int]) -> int:
    """Places in all levels of these strides of an image."""
    return sum(-(-height // stride) * -(-width // stride) for stride in strides)


def strides_of(backbone: Backbone, names: Sequence[str]) -> List[int]:
    """Pixels a cell of these outputs."""
    return [backbone.output_shape()[name].stride for name in names]


def move_head(decoder: nn.Module, name: str, heads: nn.Module) -> None:
    """Lets the decoder use heads that belong to the whole model.

    They are not registered twice, so they have one name in the state dict.
    """
    if name in decoder._modules:
        del decoder._modules[name]
    decoder.__dict__[name] = heads
