"""MODEL.WEIGHTS: checkpoints of Hugging Face, of Detectron2 and of torchvision."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from detr_case import detr_cfg, inputs
from ssod.deploy.plain import export, modules_to_import
from ssod.deploy.predictor import predictor
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.loading import check_weights_match, load_detector
from ssod.errors import UserError

transformers = pytest.importorskip("transformers")
IMAGE = inputs((64, 96))[0]["image"]


def resnet_cfg(kind: str) -> CfgNode:
    """A ResNet-18 with the names of Detectron2, as the published models are set up."""
    cfg = detr_cfg(kind)
    node = "DEFORMABLE_DETR" if kind != "rt_detr" else "RT_DETR"
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
            *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.NORM", "FrozenBN"),
            *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "INPUT.FORMAT", "RGB"),
            *("MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
            *(f"MODEL.{node}.IN_FEATURES", ["res3", "res4", "res5"]),
        ]
    )
    return cfg


def shuffle(model: torch.nn.Module) -> None:
    """Other weights than a model is built with, statistics of norms included."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn_like(tensor))


def library_model(kind: str, tie: bool) -> Any:
    """The library's own model with its own backbone, with random weights."""
    stages = {"depths": [2, 2, 2, 2], "layer_type": "basic"}
    widths = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512]}
    features = {"out_features": ["stage2", "stage3", "stage4"]}
    shared = dict(num_labels=3, d_model=32, decoder_layers=3, encoder_layers=1, num_queries=20)
    if kind == "rt_detr":
        config = transformers.RTDetrV2Config(
            **{**shared, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3},
            backbone_config=transformers.RTDetrResNetConfig(
                **{**widths, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
                layer_type="bottleneck",
                **features,
            ),
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_in_channels=[512, 1024, 2048],
        )
        model = transformers.RTDetrV2ForObjectDetection(config)
    else:
        config = transformers.DeformableDetrConfig(
            **shared,
            backbone_config=transformers.ResNetConfig(**widths, **stages, **features),
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            with_box_refine=kind == "refine",
            tie_word_embeddings=tie,
        )
        model = transformers.DeformableDetrForObjectDetection(config)
        for layer in model.model.input_proj:  # as many groups as a narrow model has here
            layer[1].num_groups = 4
    shuffle(model)
    return model.eval()


def test_deformable_detr_of_hugging_face(tmp_path: Path, caplog: Any) -> None:
    theirs = library_model("deformable", tie=True)
    theirs.save_pretrained(tmp_path / "theirs")  # shared tensors are written once
    cfg = resnet_cfg("deformable")
    model = build_model(cfg).eval()
    # The coarsest level has a stride of 64, and the image is padded to it.
    checkpointer = SSODCheckpointer(model)
    with caplog.at_level(logging.INFO):
        checkpointer.load(str(tmp_path / "theirs"), checkpointables=[])
    check_weights_match(cfg, "theirs", checkpointer)
    match = checkpointer.name_match
    assert match is not None and match.complete and not match.left, match
    image = inputs((64, 128))[0]["image"]
    batch = model.preprocess_image([{"image": image}])
    with torch.no_grad():
        own, other = model.predict([image]), theirs(pixel_values=batch.tensor)
    assert torch.allclose(own.decoder.logits[-1], other.logits, atol=1e-4)
    assert torch.allclose(own.decoder.boxes[-1], other.pred_boxes, atol=1e-5)


def test_names_of_former_releases() -> None:
    theirs = library_model("refine", tie=False).state_dict()
    former: Dict[str, torch.Tensor] = {}
    for name, value in theirs.items():
        name = name.replace("model.backbone.model.", "model.backbone.conv_encoder.model.")
        name = name.replace("o_proj", "out_proj").replace(".mlp.fc", ".fc")
        if not name.startswith("model.decoder.bbox_embed"):
            former[name] = value
    model = build_model(resnet_cfg("refine"))
    found = model.rename_weights(former)
    assert set(found) == {name for name in model.state_dict()}
    assert len(set(found)) == len(model.state_dict())


def test_rt_detr_of_hugging_face_with_a_timm_backbone(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    theirs = library_model("rt_detr", tie=True)
    theirs.save_pretrained(tmp_path)
    cfg = detr_cfg("rt_detr", "MODEL.RT_DETR.NORM", "BN")
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "resnet50d"),
            *("MODEL.RT_DETR.IN_FEATURES", ["res3", "res4", "res5"]),
            *("MODEL.WEIGHTS", str(tmp_path / "model.safetensors")),
        ]
    )
    model = load_detector(cfg, cfg.MODEL.WEIGHTS, None)
    # timm's model takes images with its own statistics, whatever the config's are.
    model.backbone.to_input = None
    batch = model.preprocess_image([{"image": IMAGE}])
    with torch.no_grad():
        own, other = model.predict([IMAGE]), theirs(pixel_values=batch.tensor)
    assert torch.allclose(own.decoder.logits[-1], other.logits, atol=1e-3)
    assert torch.allclose(own.decoder.boxes[-1], other.pred_boxes, atol=1e-4)


def backbone_file(folder: Path, kind: str) -> str:
    """Random ResNet-18 weights as others write them."""
    if kind == "torchvision":
        import torchvision

        state = torchvision.models.resnet18().state_dict()
        torch.save(state, folder / "resnet18.pth")
        return str(folder / "resnet18.pth")
    own = build_model(resnet_cfg("deformable")).backbone.state_dict()
    published = {name: value.numpy() for name, value in own.items()}
    value = {"model": published, "__author__": "someone", "matching_heuristics": True}
    (folder / "resnet18.pkl").write_bytes(pickle.dumps(value))
    return str(folder / "resnet18.pkl")


@pytest.mark.parametrize("kind", ["torchvision", "detectron2"])
def test_backbone_weights(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(9)
    path = backbone_file(tmp_path, kind)
    cfg = resnet_cfg("rt_detr")
    model = build_model(cfg)
    before = model.detr.model.decoder.class_embed[0].weight.clone()
    checkpointer = SSODCheckpointer(model)
    checkpointer.load(path, checkpointables=[])
    check_weights_match(cfg, path, checkpointer)
    match = checkpointer.name_match
    assert match is not None and match.prefix == "detr.model.backbone.body."
    assert len(match.pairs) == len(model.backbone.state_dict())
    assert torch.equal(model.detr.model.decoder.class_embed[0].weight, before)


@pytest.mark.parametrize("kind", ["deformable", "rt_detr"])
def test_export_runs_with_default_predictor(tmp_path: Path, kind: str) -> None:
    cfg = detr_cfg(kind)
    model = build_model(cfg).eval()
    state = {**model.state_dict(), "ssod_heads.Other.weight": torch.zeros(1)}
    torch.save({"model": state, "teacher": state}, tmp_path / "full.pth")
    config, weights, _ = export(cfg, str(tmp_path / "full.pth"), str(tmp_path / "out"))
    names = set(torch.load(weights, weights_only=True)["model"])
    assert names == set(model.state_dict())  # methods' heads stay behind
    assert "ssod.detectors.detr" in modules_to_import(cfg)[0]
    plain = get_cfg()
    plain.set_new_allowed(True)
    plain.merge_from_file(config)
    image = inputs()[0]["image"]
    found = DefaultPredictor(plain)(image.permute(1, 2, 0).numpy())["instances"]
    with torch.no_grad():
        (expected,) = model([{"image": image}])
    kept: List[float] = expected["instances"].scores.tolist()
    assert found.scores.tolist() == pytest.approx(kept, abs=1e-5)


def test_export_turns_a_hugging_face_checkpoint_into_detectron2s(tmp_path: Path) -> None:
    library_model("deformable", tie=True).save_pretrained(tmp_path / "theirs")
    cfg = resnet_cfg("deformable")
    config, weights, _ = export(cfg, str(tmp_path / "theirs"), str(tmp_path / "out"))
    plain = get_cfg()
    plain.set_new_allowed(True)
    plain.merge_from_file(config)
    assert len(DefaultPredictor(plain)(IMAGE.permute(1, 2, 0).numpy())["instances"]) > 0


def test_one_line_loads_an_exported_folder(tmp_path: Path) -> None:
    cfg = detr_cfg("deformable")
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    config, _, _ = export(cfg, str(tmp_path / "model.pth"), str(tmp_path / "out"))
    first = Path(config).read_text().splitlines()[0]
    assert "pip install ssod transformers" in first and "import ssod.detectors.detr" in first
    (tmp_path / "out").rename(tmp_path / "moved")
    image = inputs()[0]["image"].permute(1, 2, 0).numpy()
    assert len(predictor(str(tmp_path / "moved"))(image)["instances"]) > 0
    with pytest.raises(UserError, match="name a folder that ssod.tools.export wrote"):
        predictor(str(tmp_path))
