"""Names of timm, torchvision and Detectron2 for the same tensors."""

from __future__ import annotations

from typing import Dict

import pytest
import torch
from torch import Tensor

from ssod.backbones.names import canonical, match_in_order, match_model, match_names


def tensors(**shapes: int) -> Dict[str, Tensor]:
    return {name.replace("__", "."): torch.zeros(size) for name, size in shapes.items()}


@pytest.mark.parametrize(
    "detectron2, torchvision",
    [
        ("stem.conv1.weight", "conv1.weight"),
        ("stem.conv1.norm.running_var", "bn1.running_var"),
        ("res2.0.conv1.weight", "layer1.0.conv1.weight"),
        ("res5.2.conv3.norm.bias", "layer4.2.bn3.bias"),
        ("res3.0.shortcut.weight", "layer2.0.downsample.0.weight"),
        ("res3.0.shortcut.norm.weight", "layer2.0.downsample.1.weight"),
    ],
)
def test_resnet_of_detectron2(detectron2: str, torchvision: str) -> None:
    assert canonical(detectron2) == canonical(torchvision)


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("stages_0.blocks.1.norm.weight", "stages.0.blocks.1.norm.weight", True),
        ("model.blocks.3.attn.qkv.weight", "blocks.3.attn.qkv.weight", True),
        ("layer1.0.conv1.weight", "layer2.0.conv1.weight", False),
        ("stem.conv.weight", "conv.weight", False),  # only Detectron2's own stem is meant
    ],
)
def test_features_only(one: str, other: str, same: bool) -> None:
    assert (canonical(one) == canonical(other)) == same


def test_prefixes_of_file_and_model() -> None:
    target = tensors(
        backbone__bottom_up__conv1__weight=3, backbone__bottom_up__bn1__weight=4, head__weight=2
    )
    source = tensors(module__net__conv1__weight=3, module__net__bn1__weight=4, module__fc__weight=9)
    found = match_model(source, target, ["backbone.bottom_up."])
    assert found.pairs == {
        "backbone.bottom_up.conv1.weight": "module.net.conv1.weight",
        "backbone.bottom_up.bn1.weight": "module.net.bn1.weight",
    }
    assert (found.prefix, found.total, found.left) == (
        "backbone.bottom_up.",
        2,
        ["module.fc.weight"],
    )
    assert found.complete
    assert str(found) == (
        "2 of the backbone's 2 tensors loaded by name; 1 others of the file have no place here (module.fc.weight)"
    )


def test_averaged_weights_are_preferred() -> None:
    target = tensors(conv1__weight=3)
    source = tensors(student__conv1__weight=3, teacher__conv1__weight=3)
    assert match_model(source, target, []).pairs == {"conv1.weight": "teacher.conv1.weight"}


def test_another_shape_is_no_match() -> None:
    found = match_model(tensors(a__weight=3, b__weight=1), tensors(a__weight=4, b__weight=1), [])
    assert found.pairs == {"b.weight": "b.weight"} and found.wrong_shape == ["a.weight"]
    assert not found.complete and "1 have another shape in the file (a.weight)" in str(found)


def test_nothing_in_common() -> None:
    found = match_model(tensors(x=1), tensors(y=1), [])
    assert found.pairs == {} and str(found).startswith("0 of the model's 1 tensors")


def test_in_order_only_where_every_shape_agrees() -> None:
    target = tensors(a=3, a__num_batches_tracked=1, b=4)
    assert match_in_order(tensors(x=3, y=4), target) == {"a": "x", "b": "y"}
    assert match_in_order(tensors(x=3, y=5), target) == {}
    assert match_in_order(tensors(x=3, y=4, z=1), target) == {}
    assert match_names(tensors(x=3), target) == {}
