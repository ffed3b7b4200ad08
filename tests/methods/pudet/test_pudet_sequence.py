"""Purify, label, distil: the documented sequence of commands on coloured squares."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from runs import train
from ssod.tools.pseudo_label import main as pseudo_label
from ssod.tools.purify import main as purify
from tiny import tiny_cfg, with_squares

pytestmark = pytest.mark.trains


def test_purify_label_distil(squares: Path, tmp_path: Path) -> None:
    config, kept = tmp_path / "supervised.yaml", tmp_path / "purified" / "kept.json"
    supervised = with_squares(tiny_cfg(), squares, tmp_path / "teacher")
    supervised.SOLVER.MAX_ITER = 3
    config.write_text(supervised.dump())
    train(supervised)
    weights = str(tmp_path / "teacher" / "teacher_final.pth")
    wild, labels = str(squares / "unlabeled"), tmp_path / "labels.json"
    arguments = ["--config-file", str(config), "--wild", wild, "--prior", "0.9", "--keep", "5"]
    arguments += ["--epochs", "1", "--batch-size", "4", "--size", "64"]
    purify([*arguments, "--output", str(kept.parent), "MODEL.WEIGHTS", weights])

    cfg = with_squares(
        tiny_cfg(),
        squares,
        tmp_path / "student",
        ("ScoreThreshold", "PseudoBoxRegression", "BoundedDistillation"),
    )
    cfg.SSOD.DATASETS.purified = CfgNode(
        {"FORMAT": "coco", "ANNOTATIONS": str(kept), "IMAGES": wild}
    )
    cfg.DATASETS.UNLABELED = ("purified",)
    config.write_text(cfg.dump())
    pseudo_label(["--config-file", str(config), "--weights", weights, "--output", str(labels)])
    assert len(json.loads(labels.read_text())["images"]) == 5

    cfg.SSOD.PSEUDO_LABELS = str(labels)
    cfg.SSOD.ALTERNATE_STREAMS = True
    cfg.SSOD.BOUNDED_DISTILLATION.TEACHER = "frozen"
    cfg.SSOD.BOUNDED_DISTILLATION.TEACHER_WEIGHTS = weights
    cfg.merge_from_list(
        ["SOLVER.MAX_ITER", 4, "SSOD.BURN_IN_STEPS", 0, "SSOD.SCORE_THRESHOLD", 0.0]
    )
    trainer = train(cfg)
    assert len(trainer.data.unlabeled) == 5
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])
    assert trainer.storage.latest()["loss_cls_unlabeled"][1] == 2
    exported = torch.load(tmp_path / "student" / "teacher_final.pth", weights_only=True)["model"]
    assert set(exported) == set(torch.load(weights, weights_only=True)["model"])
