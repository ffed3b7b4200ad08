"""A run with a timm backbone: it resumes to the bit, frozen stages stay, and the export runs in a
process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from runs import digest, method_cfg, state_of, train
from ssod.deploy.plain import export, snippet
from tiny import make_image

pytest.importorskip("timm")


def timm_cfg(squares: Path, output: Path) -> CfgNode:
    """Student and teacher with a small EfficientNet whose later BatchNorm layers are live."""
    cfg = method_cfg(squares, output, ("ScoreThreshold",), 4)
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "SOLVER.BACKBONE_MULTIPLIER", 0.5),
            *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.NORM", "live"),
            *("MODEL.TIMM.FREEZE_AT", 2),
        ]
    )
    return cfg


def test_run_resume_and_export(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole = train(timm_cfg(squares, tmp_path / "whole"))
    assert (
        "tensors such as backbone.bottom_up.body.conv_stem.weight are random and frozen"
        in capsys.readouterr().out
    )
    cfg = timm_cfg(squares, tmp_path / "parts")
    train(cfg)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts = train(cfg, resume=True)
    assert parts.start_iter == 2
    assert digest(state_of(whole)) == digest(state_of(parts))

    # The frozen weights are those of the first checkpoint, in student and teacher. The rest has
    # moved.
    first = torch.load(tmp_path / "parts" / "model_0000001.pth", weights_only=True)["model"]
    last = whole.core.student.state_dict()
    prefix = "backbone.bottom_up.body."
    moved = {key for key in last if not torch.equal(last[key], first[key])}
    assert prefix + "blocks.1.0.bn1.running_mean" in moved
    assert not [key for key in moved if key.startswith((prefix + "bn1.", prefix + "blocks.0."))]
    teacher = whole.core.teacher.state_dict()
    for key in (prefix + "conv_stem.weight", prefix + "bn1.running_var"):
        assert torch.equal(teacher[key], last[key])

    config, weights, _ = export(
        cfg, str(tmp_path / "parts" / "teacher_final.pth"), str(tmp_path / "out")
    )
    cv2.imwrite(str(tmp_path / "image.jpg"), make_image(np.random.default_rng(5))[0])
    lines = "\n".join(snippet(cfg, config, weights))
    shown = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    assert "import ssod.backbones" in lines and "instances" in shown
