"""Weights of a Hugging Face checkpoint under the names that they have here.

A checkpoint of `DeformableDetrForObjectDetection` or `RTDetrV2ForObjectDetection` brings its own
backbone, whose names become those of the Detectron2 or timm backbone inside.
"""

from __future__ import annotations

import re
from typing import Dict, Mapping

from torch import Tensor, nn

from ssod.backbones.loading import backbone_prefixes
from ssod.backbones.names import match_model

PREFIX = "detr."
_BACKBONE = re.compile(r"^model\.backbone\.(?:conv_encoder\.)?(?:model\.)?(?:_backbone\.)?")
_THEIRS = re.compile(r"^(model\.(encoder|decoder|backbone|input_proj)|class_embed|bbox_embed)\.")
# Names in releases before transformers 5.
_FORMER = (
    (re.compile(r"\.self_attn\.out_proj\."), ".self_attn.o_proj."),
    (re.compile(r"\.layers\.(\d+)\.fc(\d)\."), r".layers.\1.mlp.fc\2."),
    (re.compile(r"^model\.encoder\.encoder\.(\d+)\.layers\."), r"model.encoder.aifi.\1.layers."),
)


def from_hugging_face(weights: Mapping[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """The weights under the names of `model`, a `TransformerDetector`.

    Weights that are not a Hugging Face checkpoint's keep their names, and so do those that have no
    place in the model. Where layers share a head, one copy in the file is enough.
    """
    if not any(_THEIRS.match(name) for name in weights):
        return dict(weights)
    target = model.state_dict()
    found, body = {}, {}
    for name, value in weights.items():
        inside = _BACKBONE.match(name)
        if inside:
            body[name[inside.end() :]] = value
        else:
            found[_own_name(name, target)] = value
    found.update(_backbone_weights(body, model, target))
    by_storage = {tensor.data_ptr(): name for name, tensor in target.items() if name in found}
    for name, tensor in target.items():
        twin = by_storage.get(tensor.data_ptr())
        if name not in found and twin is not None and tensor.numel():
            found[name] = found[twin]
    return found


def _own_name(name: str, target: Mapping[str, Tensor]) -> str:
    for pattern, replacement in _FORMER:
        name = pattern.sub(replacement, name)
    # Heads have two names there, one of which may be left out; here they have one.
    others = [name.removeprefix("model.decoder."), f"model.decoder.{name}"]
    return next((PREFIX + n for n in [name, *others] if PREFIX + n in target), name)


def _backbone_weights(
    body: Mapping[str, Tensor], model: nn.Module, target: Mapping[str, Tensor]
) -> Dict[str, Tensor]:
    deep = any(name.startswith("embedder.embedder.0.") for name in body)
    renamed = {_resnet_name(name, deep): value for name, value in body.items()}
    own = {name: tensor for name, tensor in target.items() if ".backbone." in name}
    pairs = match_model(renamed, own, backbone_prefixes(model)).pairs if renamed else {}
    used = set(pairs.values())
    left = {f"backbone.{name}": value for name, value in renamed.items() if name not in used}
    return {**{ours: renamed[theirs] for ours, theirs in pairs.items()}, **left}


def _resnet_name(name: str, deep: bool) -> str:
    """torchvision's and timm's name of a tensor of their ResNets.

    Args:
        deep: with a stem of three convolutions and average pooling in the shortcuts, as timm's
            resnet50d; False: the plain one.
    """
    if name.startswith("embedder.embedder."):
        kind, rest = _part(name)
        index = int(name.split(".")[2]) if deep else 0
        norms = ("conv1.1", "conv1.4", "bn1") if deep else ("bn1",)
        own = f"conv1.{3 * index}" if deep else "conv1"
        return f"{own if kind == 'convolution' else norms[index]}.{rest}"
    block = re.match(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", name)
    if not block:
        return name
    kind, rest = _part(name)
    before = f"layer{int(block[1]) + 1}.{block[2]}"
    if ".shortcut." in name:
        return f"{before}.downsample.{int(deep) + (kind != 'convolution')}.{rest}"
    index = int(name[block.end() :].split(".")[1]) + 1
    return f"{before}.{'conv' if kind == 'convolution' else 'bn'}{index}.{rest}"


def _part(name: str) -> tuple[str, str]:
    """("convolution" or "normalization", "weight" or what else the tensor is)."""
    parts = name.split(".")
    return parts[-2], parts[-1]
