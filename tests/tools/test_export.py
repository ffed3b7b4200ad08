"""The exported folder needs nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Tuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ssod.deploy.plain import export, plain_config
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.errors import UserError
from ssod.tools.export import main
from tiny import make_image, tiny_cfg, with_squares


@pytest.fixture
def trained(tmp_path: Path, squares: Path) -> Tuple[CfgNode, torch.nn.Module, torch.nn.Module]:
    """A config, a student and a teacher with heads of ours; model_1.pth and teacher_best.pth are in
    the folder.
    """
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    student, teacher = build_model(cfg), build_model(cfg)
    for model in (student, teacher):
        model.ssod_heads = torch.nn.ModuleDict({"Toy": torch.nn.Linear(2, 2)})
    checkpointer = SSODCheckpointer(student, str(tmp_path), teacher=teacher)
    checkpointer.save("model_1")
    checkpointer.save_weights("teacher_best", teacher.state_dict())
    return cfg, student, teacher


@pytest.mark.parametrize(
    "file, choice", [("teacher_best", None), ("model_1", None), ("model_1", "student")]
)
def test_round_trip(trained: Any, tmp_path: Path, file: str, choice: Any) -> None:
    cfg, student, teacher = trained
    paths = export(cfg, str(tmp_path / f"{file}.pth"), str(tmp_path / "out"), choice)
    assert [Path(path).name for path in paths] == ["config.yaml", "model.pth", "classes.json"]
    plain = get_cfg()
    plain.merge_from_file(paths[0])
    assert "SSOD" not in plain and plain.MODEL.WEIGHTS == paths[1]
    image, _ = make_image(np.random.default_rng(5))
    ours = student if choice == "student" else teacher
    with torch.no_grad():
        row = {
            "image": torch.from_numpy(image.transpose(2, 0, 1).astype("float32")),
            "height": 64,
            "width": 64,
        }
        expected = ours.eval()([row])[0]["instances"]
    found = DefaultPredictor(plain)(image)["instances"]
    assert len(found) == len(expected) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    weights = torch.load(paths[1], weights_only=True)["model"]
    assert not [key for key in weights if key.startswith("ssod_heads")]


def test_plain_config_has_detectron2s_keys_only() -> None:
    plain = plain_config(tiny_cfg())
    assert plain.SOLVER.MAX_ITER == 6
    for node, key in (
        (plain.DATASETS, "UNLABELED"),
        (plain.DATASETS, "VAL"),
        (plain.SOLVER, "OPTIMIZER"),
    ):
        assert key not in node
    assert "DTYPE" not in plain.SOLVER.AMP and "SSOD" not in plain


def test_command(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("ssod.data.catalog")
    cfg, _, _ = trained
    (tmp_path / "c.yaml").write_text(cfg.dump())
    out = tmp_path / "out"
    arguments = [
        "--config-file",
        str(tmp_path / "c.yaml"),
        "--weights",
        str(tmp_path / "teacher_best.pth"),
    ]
    main([*arguments, "--output", str(out), "SOLVER.MAX_ITER", "9"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert str(out / "model.pth") in lines[0]
    shown = [line.replace("'image.jpg'", repr(str(tmp_path / "image.png"))) for line in lines[2:]]
    cv2.imwrite(str(tmp_path / "image.png"), make_image(np.random.default_rng(5))[0])
    scope: Any = {}
    exec("\n".join(shown), scope)
    assert "instances" in capsys.readouterr().out
    assert scope["cfg"].SOLVER.MAX_ITER == 9
    assert json.loads((out / "classes.json").read_text()) == ["red", "green", "blue"]


def test_own_parts_and_their_keys_survive(squares: Path, tmp_path: Path) -> None:
    """A module that SSOD.IMPORTS lists registers a backbone and adds keys, and the printed lines
    load the model.
    """
    (tmp_path / "my_parts.py").write_text(MY_PARTS)
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.MODEL.BACKBONE.NAME, cfg.SSOD.IMPORTS = "build_my_backbone", ("my_parts",)
    cfg.SSOD.pop("TOY", None)  # of a method that only tests register
    text = cfg.dump() + "MY:\n  TOP: 3\n"
    (tmp_path / "c.yaml").write_text(text.replace("MODEL:\n", "MODEL:\n  MINE:\n    SCALE: 2.0\n"))
    command = """
import torch
from ssod.engine.loading import build_detector
from ssod.engine.setup import load_config
from ssod.tools.export import main

cfg = load_config("c.yaml")
assert (cfg.MODEL.MINE.SCALE, cfg.MODEL.MINE.OTHER, cfg.MY.TOP) == (2.0, 1, 3)
torch.save({"model": build_detector(cfg).state_dict()}, "w.pth")
main(["--config-file", "c.yaml", "--weights", "w.pth", "--output", "out"])
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = partial(
        subprocess.run, cwd=tmp_path, env=env, text=True, check=True, stdout=subprocess.PIPE
    )
    shown = run([sys.executable, "-c", command]).stdout
    lines = shown[shown.index("import ") :]
    assert "import my_parts\nimport cv2\n" in lines and "set_new_allowed" in lines
    cv2.imwrite(str(tmp_path / "image.jpg"), make_image(np.random.default_rng(5))[0])
    lines += (
        "\nassert (cfg.MODEL.MINE.SCALE, cfg.MY.TOP) == (2.0, 3) and 'DATASETS' not in cfg.SSOD"
    )
    assert "instances" in run([sys.executable, "-c", "import ssod.config\n" + lines]).stdout


MY_PARTS = """
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from tiny import build_tiny_fpn_backbone


def add_my_config(cfg):
    cfg.MODEL.MINE = CfgNode({"SCALE": 1.0, "OTHER": 1})
    cfg.MY = CfgNode({"TOP": 1})


@BACKBONE_REGISTRY.register()
def build_my_backbone(cfg, input_shape):
    assert cfg.MODEL.MINE.SCALE == 2.0
    return build_tiny_fpn_backbone(cfg, input_shape)
"""


def test_wrong_inputs(trained: Any, tmp_path: Path) -> None:
    cfg, student, _ = trained
    best, out = str(tmp_path / "teacher_best.pth"), str(tmp_path / "out")
    with pytest.raises(UserError, match="leave --model out"):
        export(cfg, best, out, "student")
    with pytest.raises(UserError, match="none.pth does not exist"):
        export(cfg, str(tmp_path / "none.pth"), out)
    other = cfg.clone()
    other.MODEL.ROI_HEADS.NUM_CLASSES = 5
    with pytest.raises(
        UserError, match="teacher_best.pth does not fit the config .*box_predictor"
    ) as caught:
        export(other, best, out)
    assert "\n" not in str(caught.value)
    SSODCheckpointer(student, str(tmp_path)).save_weights("part", {"x": torch.zeros(1)})
    with pytest.raises(UserError, match="part.pth does not fit"):
        export(cfg, str(tmp_path / "part.pth"), out)
    assert not (tmp_path / "out").exists()
