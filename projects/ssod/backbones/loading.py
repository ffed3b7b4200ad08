"""Weights of a file for a whole detector: names of timm, torchvision and Detectron2, and what the
weights expect.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Mapping, Tuple

import torch
from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_c2_detectron_names,
)
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor, nn

from ssod.backbones.names import NameMatch, match_model
from ssod.backbones.timm_backbone import TimmBackbone

logger = logging.getLogger(__name__)


def weights_by_name(
    model: nn.Module, checkpoint: Mapping[str, Any]
) -> Tuple[Dict[str, Any], NameMatch]:
    """The weights of a file under the model's names, and what matched.

    Args:
        checkpoint: {"model": name -> tensor or array}; of Detectron2's model zoo also "__author__"
            and "matching_heuristics", whose names Detectron2 itself matches unless the backbone is
            timm's.
    """
    weights = {
        name: torch.as_tensor(value)
        for name, value in checkpoint["model"].items()
        if hasattr(value, "shape")
    }
    weights = own_names(model, weights)
    target = model.state_dict()
    prefixes = backbone_prefixes(model)
    caffe2 = checkpoint.get("__author__") == "Caffe2"
    timm = any(isinstance(module, TimmBackbone) for module in model.modules())
    if checkpoint.get("matching_heuristics") and not timm:
        aligned = align_and_update_state_dicts(target, weights, c2_conversion=caffe2)
        return aligned, _as_match(aligned, target, prefixes)
    if caffe2:
        weights, _ = convert_c2_detectron_names(weights)
        logger.warning(
            "Caffe2's weights expect BGR images that are not divided by a standard deviation, and strides in the 1x1 "
            "convolutions; timm's model has neither: prefer weights of timm or torchvision."
        )
    match = match_model(weights, target, prefixes)
    _warn_of_torchvision(model, match)
    return {ours: weights[theirs] for ours, theirs in match.pairs.items()}, match


def own_names(model: nn.Module, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """The weights after `model.rename_weights`, if the model has it for the names of other
    programs. Otherwise they are unchanged.
    """
    rename: Any = getattr(model, "rename_weights", dict)
    return rename(weights)


def backbone_prefixes(model: nn.Module) -> List[str]:
    """The prefixes of the model's backbones in parameter names: "backbone.", "backbone.bottom_up.",
    ...
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, Backbone) and name:
            found.append(f"{name}.")
            if isinstance(module, TimmBackbone):
                found.append(f"{name}.body.")
    return found


def _as_match(
    aligned: Mapping[str, Tensor], target: Mapping[str, Tensor], prefixes: List[str]
) -> NameMatch:
    """What Detectron2's heuristics found: they leave names that they did not match as they were."""
    pairs = {name: name for name in aligned if name in target}
    inside = [prefix for prefix in prefixes if all(name.startswith(prefix) for name in pairs)]
    prefix = max(inside, key=len) if inside and pairs else ""
    total = sum(name.startswith(prefix) for name in target)
    return NameMatch(pairs, prefix, total, [], [name for name in aligned if name not in target])


def _warn_of_torchvision(model: nn.Module, match: NameMatch) -> None:
    """Detectron2's ResNet is set up for Caffe2's weights by default, which torchvision's do not go
    with.
    """
    from_torchvision = any(
        ".stem.conv1." in f".{ours}" and ".stem." not in f".{theirs}"
        for ours, theirs in match.pairs.items()
    )
    if not from_torchvision:
        return
    wrong = []
    if getattr(model, "input_format", "RGB") != "RGB":
        wrong.append("INPUT.FORMAT RGB")
    std: Any = getattr(model, "pixel_std", None)
    if std is not None and float(std.max()) < 2.0:
        wrong.append(
            "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53] with PIXEL_STD [58.395, 57.12, 57.375]"
        )
    for resnet in (module for module in model.modules() if isinstance(module, ResNet)):
        blocks = [block for block in resnet.modules() if isinstance(block, BottleneckBlock)]
        if any(block.conv1.stride != (1, 1) for block in blocks):
            wrong.append("MODEL.RESNETS.STRIDE_IN_1X1 False")
            break
    if wrong:
        logger.warning(f"torchvision's ResNets expect {', '.join(wrong)}: set that in the config.")
