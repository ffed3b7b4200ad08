"""The demo in miniature: the tiny detector on squares under the digit scenes' names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from ssod.errors import UserError
from ssod.tools import demo
from tiny import tiny_cfg, with_squares

ROOT = Path(__file__).parent.parent


@pytest.fixture
def scene(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the demo wants."""
    configs, data = tmp_path / "configs" / "digit_scenes", tmp_path / "datasets"
    configs.mkdir(parents=True)
    data.mkdir()
    (data / "digit_scenes").symlink_to(squares)
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "unused", ("ScoreThreshold", "CropBank"))
    cfg.DATASETS.TEST = ("digit_scenes_test",)
    declared = cfg.SSOD.DATASETS
    cfg.SSOD.DATASETS = CfgNode(
        {key.replace("squares", "digit_scenes"): value for key, value in declared.items()}
    )
    cfg.DATASETS.TRAIN = ("digit_scenes_labeled",)
    cfg.DATASETS.UNLABELED = ("digit_scenes_unlabeled",)
    cfg.SSOD.CROP_BANK.PASTE_ON = ("labeled", "unlabeled")
    cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS = 5, 3
    (configs / "best.yaml").write_text(cfg.dump())
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, str(ROOT / "run_tiny.py"), "--resume"]
    monkeypatch.setattr(demo, "training_command", lambda config, opts: [*command, config, *opts])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path


@pytest.mark.trains
def test_demo_ends_with_table_pictures_and_report(scene: Path, capsys: Any) -> None:
    demo.main([])
    printed = capsys.readouterr().out
    assert "100 labels + 1,900 images" in printed and "AP-red" in printed
    output = scene / "output" / "demo"
    for name in ("detections.png", "pseudo.png", "report.html"):
        assert (output / name).stat().st_size > 1000 and name in printed
    for run in ("no_unlabeled", "best"):
        results = json.loads((output / run / "results.json").read_text())
        assert results["steps"] == 5


@pytest.mark.trains
def test_second_call_trains_nothing(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.main([])
    monkeypatch.setattr(demo, "run_jobs", None)
    demo.main([])


def test_missing_scenes_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    called = []

    def draw(argv: list[str]) -> None:
        called.extend(argv)
        raise UserError("no room")

    monkeypatch.setattr(demo.digit_scenes, "main", draw)
    with pytest.raises(UserError, match="no room"):
        demo.main([])
    assert called == ["datasets/digit_scenes"]


def test_quoted_table_comes_from_the_committed_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(
        "row,AP_mean,gap_closed_percent,runs\nsupervised,1.04,0.0,1 of 1\nall,22.06,100.0,1 of 1\n"
    )
    lines = demo.measured(str(path)).splitlines()
    assert lines[0].split() == ["system", "AP", "runs"]
    assert lines[-1].split() == ["all", "22.1", "1", "of", "1"]
    assert demo.measured(str(tmp_path / "none.csv")) == ""
