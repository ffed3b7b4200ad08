"""Exported folders give the model's detections, without Detectron2 and without this project."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Tuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from deploy_rig import FAMILIES, family_cfg
from ssod.deploy import portable
from ssod.deploy.check import Comparison, Reference, compare, compare_on_images, load_predictor
from ssod.deploy.portable import export_portable
from ssod.detectors.exporting import exports, flat_detector, known_families
from ssod.errors import UserError
from ssod.tools.export import main
from tiny import with_squares

FORMATS = [
    "torchscript",
    pytest.param(
        "onnx",
        marks=pytest.mark.skipif(
            not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")),
            reason="the extra `export` is not installed",
        ),
    ),
]
# (height, width): other shapes, larger and smaller than the trace's image.
SIZES = [(64, 64), (40, 90), (200, 30), (9, 9), (300, 280)]


def saved_model(cfg: CfgNode, folder: Path, seed: int = 0) -> str:
    """Weights that give scores of every size."""
    torch.manual_seed(seed)
    model = build_model(cfg)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("cls_score.weight", "objectness_logits.weight")):
                value.mul_(30)
    path = folder / "weights.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def make_run(family: str, squares: Path, folder: Path) -> Tuple[CfgNode, str]:
    cfg = with_squares(family_cfg(family), squares, folder)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 80, 120
    return cfg, saved_model(cfg, folder)


def original(cfg: CfgNode, weights: str) -> torch.nn.Module:
    model = build_model(cfg)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    return model.eval()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_the_originals(
    family: str, format: str, squares: Path, tmp_path: Path
) -> None:
    cfg, weights = make_run(family, squares, tmp_path)
    images = [str(path) for path in sorted((squares / "test").glob("*.png"))[:2]]
    exported = export_portable(cfg, weights, str(tmp_path / "out"), format, images=images)
    found = exported.comparison
    assert found is not None and found.agrees()
    assert found.images == 6 and found.detections > 20  # each image upright, turned and halved
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        Path(name).name for name in exported.files
    )
    reference, detector = Reference(cfg, original(cfg, weights)), load_predictor(tmp_path / "out")
    for size in SIZES:
        pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
        ours, theirs = reference(pixels), detector(pixels)
        assert compare(ours, theirs).unmatched <= 1, size
        assert ("masks" in theirs) == (family == "mask")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", ["mask", "retinanet"])
def test_no_detection_at_all(family: str, format: str, squares: Path, tmp_path: Path) -> None:
    """Nothing is found where the trace was made either."""
    cfg, weights = make_run(family, squares, tmp_path)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 1.1
    export_portable(cfg, weights, str(tmp_path / "out"), format)
    found = load_predictor(tmp_path / "out")(np.zeros((50, 70, 3), dtype=np.uint8))
    assert found["boxes"].shape == (0, 4)
    assert len(found["scores"]) == len(found["classes"]) == 0
    if family == "mask":
        assert found["masks"].shape == (0, 50, 70)


@pytest.mark.parametrize("format", FORMATS)
def test_command_and_script(
    format: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """`predict.py` runs where this project, Detectron2 and torchvision cannot be imported."""
    cfg, weights = make_run("faster", squares, tmp_path)
    cfg.DATASETS.TEST = ("squares_test",)
    (tmp_path / "c.yaml").write_text(cfg.dump())
    arguments = ["--config-file", str(tmp_path / "c.yaml"), "--weights", weights]
    out, images = tmp_path / "out", tmp_path / "images"
    main([*arguments, "--output", str(out), "--format", format, "--check-images", "3"])
    printed = capsys.readouterr().out
    assert "It detects what the original does. 7 images" in printed
    assert f"python {out / 'predict.py'}" in printed
    facts = json.loads((out / "model.json").read_text())
    assert facts["classes"] == ["red", "green", "blue"] and facts["category_ids"] == [1, 2, 3]
    assert (facts["input_format"], facts["min_size"], facts["max_size"]) == ("BGR", 80, 120)
    assert facts["pixel_std"] == [58.0] * 3 and facts["imports"] == []

    images.mkdir()
    gray = np.random.default_rng(0).integers(0, 256, (40, 70), dtype=np.uint8)
    cv2.imwrite(str(images / "gray.png"), gray)
    (images / "broken.jpg").write_bytes(b"no image")
    blocked = ["ssod", "detectron2", "torchvision", *(["torch"] if format == "onnx" else [])]
    command = (
        f"import runpy, sys\nfor name in {blocked}: sys.modules[name] = None\n"
        f"sys.argv = ['predict.py', {str(images)!r}, '--score', '0', '--output', {str(tmp_path / 'd.json')!r}]\n"
        f"runpy.run_path({str(out / 'predict.py')!r}, run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\nsys.path[:] = {sys.path}\n" + command],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "broken.jpg cannot be read" in run.stderr and "1 images could not be read" in run.stderr
    content = json.loads((tmp_path / "d.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["gray.png"]
    assert content["categories"][0] == {"id": 1, "name": "red"}
    expected = Reference(cfg, original(cfg, weights))(np.repeat(gray[..., None], 3, axis=2))
    boxes = [row["bbox"] for row in content["annotations"]]
    found = {
        "boxes": np.array([[x, y, x + w, y + h] for x, y, w, h in boxes]),
        "scores": np.array([row["score"] for row in content["annotations"]]),
        "classes": np.array([row["category_id"] - 1 for row in content["annotations"]]),
    }
    assert len(expected["scores"]) > 3 and compare(expected, found).unmatched == 0


def test_a_model_that_differs_is_not_written(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, weights = make_run("faster", squares, tmp_path)
    write = portable.write_torchscript

    def write_another(flat: Any, path: str, device: str) -> Any:
        with torch.no_grad():
            flat.model.roi_heads.box_predictor.cls_score.bias[0] += 0.1
            imports = write(flat, path, device)
            flat.model.roi_heads.box_predictor.cls_score.bias[0] -= 0.1
        return imports

    monkeypatch.setattr(portable, "write_torchscript", write_another)
    images = [str(next((squares / "test").glob("*.png")))]
    out = tmp_path / "out"
    with pytest.raises(UserError, match="does not detect what .* without a partner") as caught:
        export_portable(cfg, weights, str(out), "torchscript", images=images)
    assert "\n" not in str(caught.value) and list(out.iterdir()) == []


def test_a_model_of_one_image_size_is_named(squares: Path, tmp_path: Path) -> None:
    cfg, weights = make_run("faster", squares, tmp_path)

    def fixed(pixels: np.ndarray) -> Dict[str, np.ndarray]:
        raise RuntimeError("The size of tensor a (8) must match\nthe size of tensor b (6)")

    images = [str(next((squares / "test").glob("*.png")))]
    with pytest.raises(UserError, match="fails on an image of 64 x 64 .*tensor b.*one image size"):
        compare_on_images(Reference(cfg, original(cfg, weights)), fixed, images)


def test_unreadable_images_are_left_out(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg, weights = make_run("faster", squares, tmp_path)
    reference = Reference(cfg, original(cfg, weights))
    (tmp_path / "broken.png").write_bytes(b"")
    good = str(next((squares / "test").glob("*.png")))
    found = compare_on_images(reference, reference, [str(tmp_path / "broken.png"), good])
    assert (found.images, found.unmatched) == (3, 0)
    assert "broken.png cannot be read" in capsys.readouterr().err
    with pytest.raises(UserError, match="None of 1 images can be read"):
        compare_on_images(reference, reference, [str(tmp_path / "broken.png")])


def test_wrong_inputs(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, weights = make_run("faster", squares, tmp_path)
    (tmp_path / "c.yaml").write_text(cfg.dump())
    (tmp_path / "none").mkdir()
    base = ["--config-file", str(tmp_path / "c.yaml"), "--weights", weights]
    base += ["--output", str(tmp_path / "out")]
    for extra, match in (
        (["--format", "torchscript"], "DATASETS.TEST and VAL are empty.*--check none"),
        (["--format", "torchscript", "--check", "no_such"], "no_such: neither a folder nor"),
        (
            ["--format", "torchscript", "--check", str(tmp_path / "none")],
            "has no images: .*--check none",
        ),
        (["--check", "squares_test"], "leave them out"),
        (["--format", "onnx", "--check", "none", "--device", "cuda"], "any device, leave it out"),
    ):
        with pytest.raises((UserError, SystemExit), match=match):
            main([*base, *extra])
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(UserError, match="INPUT.FORMAT is 'L'"):
        export_portable(cfg, weights, str(tmp_path / "out"), "torchscript")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx and onnxruntime.*ssod\[export\]"):
        export_portable(cfg, weights, str(tmp_path / "out"), "onnx")


def test_families_that_cannot_be_exported() -> None:
    class Other(torch.nn.Linear):
        pass

    with pytest.raises(UserError, match="Other has no export .*GeneralizedRCNN.*RetinaNet"):
        flat_detector(Other(1, 1))
    assert {"FCOS", "GeneralizedRCNN", "RetinaNet"} <= set(known_families())
    cfg = family_cfg("faster")
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(UserError, match="Keypoints .*--format detectron2"):
        flat_detector(build_model(cfg))


def test_a_part_that_cannot_be_traced_is_named(squares: Path, tmp_path: Path) -> None:
    cfg, weights = make_run("faster", squares, tmp_path)
    model = original(cfg, weights)
    flat = flat_detector(model)
    model.backbone.forward = None
    with pytest.raises(UserError, match="GeneralizedRCNN has a part that TorchScript cannot hold"):
        portable.write_torchscript(flat, str(tmp_path / "m.pt"), "cpu")


def test_a_family_registers_itself() -> None:
    class Mine(torch.nn.Linear):
        pass

    class Derived(Mine):
        pass

    @exports(Mine)
    def flat_mine(model: Any) -> Any:
        return torch.nn.Sequential(model)

    assert flat_detector(Derived(1, 1))[0].in_features == 1
    assert Comparison().agrees()
