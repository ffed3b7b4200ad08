"""Files of timm, torchvision and Detectron2, in the formats people keep them in, loaded through
MODEL.WEIGHTS.
"""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.errors import UserError
from tiny import tiny_cfg

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def make_cfg(name: str = "resnet18") -> CfgNode:
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = "build_timm_fpn_backbone", name
    return cfg


def resnet_cfg() -> CfgNode:
    """Detectron2's own ResNet-18."""
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_resnet_fpn_backbone", 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def arrays(state: Dict[str, Tensor]) -> Dict[str, Any]:
    return {key: value.numpy() for key, value in state.items()}


def save_safetensors(state: Dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in state.items()}, path)


WRITERS: Dict[str, Callable[[Dict[str, Tensor], Path], Any]] = {
    "raw.pth": torch.save,
    "model.pth": lambda state, path: torch.save({"model": state, "epoch": 3}, path),
    "lightning.pth": lambda state, path: torch.save(
        {"state_dict": {f"model.{key}": value for key, value in state.items()}}, path
    ),
    "ddp.pth": lambda state, path: torch.save(
        {f"module.backbone.{key}": value for key, value in state.items()}, path
    ),
    "averaged.pth": lambda state, path: torch.save(
        {
            "state_dict": {key: torch.zeros_like(value) for key, value in state.items()},
            "state_dict_ema": state,
        },
        path,
    ),
    "weights.safetensors": save_safetensors,
    "arrays.pkl": lambda state, path: path.write_bytes(pickle.dumps(arrays(state))),
    "nested.pkl": lambda state, path: path.write_bytes(pickle.dumps({"model": arrays(state)})),
    "torch.pkl": torch.save,
}


def load(cfg: CfgNode, path: Path) -> nn.Module:
    model = build_model(cfg)
    SSODCheckpointer(model).load(str(path), checkpointables=[])
    return model


@pytest.mark.parametrize("file", WRITERS)
def test_every_format_into_timm(file: str, tmp_path: Path, caplog: Any) -> None:
    source = torchvision.models.resnet18()  # timm names its tensors the same
    WRITERS[file](source.state_dict(), tmp_path / file)
    with caplog.at_level(logging.INFO):
        body = load(make_cfg(), tmp_path / file).backbone.bottom_up.body
    expected = source.state_dict()
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert f"{file}: 100 of the backbone's 100 tensors loaded by name; 2 others" in caplog.text


def test_detectron2s_query_and_flag(tmp_path: Path, caplog: Any) -> None:
    """The two ways in which Detectron2 asks for its heuristics."""
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "raw.pth")
    torch.save({"model": state, "matching_heuristics": True}, tmp_path / "flag.pth")
    for path in (tmp_path / "raw.pth?matching_heuristics=True", tmp_path / "flag.pth"):
        body = load(make_cfg("test_resnet"), path).backbone.bottom_up.body
        assert torch.equal(body.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])


def test_names_that_features_only_changes(tmp_path: Path) -> None:
    source = timm.create_model("test_convnext")
    torch.save(source.state_dict(), tmp_path / "raw.pth")
    body = load(make_cfg("test_convnext"), tmp_path / "raw.pth").backbone.bottom_up.body
    assert torch.equal(
        body.stages_1.blocks[0].mlp.fc1.weight, source.stages[1].blocks[0].mlp.fc1.weight
    )


def test_torchvision_into_detectron2_and_back(tmp_path: Path, caplog: Any) -> None:
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "torchvision.pth")
    resnet = load(resnet_cfg(), tmp_path / "torchvision.pth").backbone.bottom_up
    assert torch.equal(resnet.res4[0].shortcut.weight, source.layer3[0].downsample[0].weight)
    assert torch.equal(resnet.res2[1].conv2.norm.weight, source.layer1[1].bn2.weight)
    assert "torchvision's ResNets expect INPUT.FORMAT RGB" in caplog.text
    published = {
        "model": arrays(resnet.state_dict()),
        "__author__": "x",
        "matching_heuristics": True,
    }
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(published))
    for cfg in (resnet_cfg(), make_cfg()):
        model = load(cfg, tmp_path / "R-18.pkl")
        bottom_up = model.backbone.bottom_up
        last = bottom_up.res5 if hasattr(bottom_up, "res5") else bottom_up.body.layer4
        assert torch.equal(last[1].conv2.weight, source.layer4[1].conv2.weight)


def test_backbone_of_another_detector(tmp_path: Path) -> None:
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None
    )
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    body = load(make_cfg("resnet50"), tmp_path / "detector.pth").backbone.bottom_up.body
    expected = detector.backbone.body.layer4[2].conv3.weight
    assert torch.equal(body.layer4[2].conv3.weight, expected)


def test_a_detector_of_ours(tmp_path: Path, caplog: Any) -> None:
    source = build_model(make_cfg("test_resnet"))
    SSODCheckpointer(source, str(tmp_path)).save_weights("teacher_best", source.state_dict())
    with caplog.at_level(logging.INFO):
        model = load(make_cfg("test_resnet"), tmp_path / "teacher_best.pth")
    total = len(source.state_dict())
    assert f"{total} of the model's {total} tensors loaded by name." in caplog.text
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_another_depth_is_a_warning(tmp_path: Path, caplog: Any) -> None:
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "r50.pth")
    load(make_cfg("resnet18"), tmp_path / "r50.pth")
    assert "have another shape in the file (backbone.bottom_up.body.layer1.0.conv1" in caplog.text


def test_damaged_safetensors(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="x.safetensors is cut off, damaged or no safetensors file"):
        load(make_cfg("test_resnet"), tmp_path / "x.safetensors")
