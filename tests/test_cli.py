"""train_net.py as a user types it: wrong input is one line, a run can be evaluated."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from runs import train
from tiny import tiny_cfg, with_squares

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """Calls train_net.py in this process; returns (exit status, stderr)."""
    spec = importlib.util.spec_from_file_location("train_net", ROOT / "train_net.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
        status = 0
        try:
            module.run_cli(module.main)
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capsys.readouterr().err

    return call


@pytest.fixture
def config_file(squares: Path, tmp_path: Path) -> Path:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.merge_from_list(["SOLVER.MAX_ITER", 3, "SSOD.BURN_IN_STEPS", 1])
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    return path


@pytest.mark.trains
def test_trains_resumes_and_evaluates(run: Any, config_file: Path, tmp_path: Path) -> None:
    assert run("--config-file", str(config_file))[0] == 0
    assert {
        "model_final.pth",
        "teacher_final.pth",
        "results.json",
        "metrics.json",
        "config.yaml",
    } <= {path.name for path in (tmp_path / "run").iterdir()}
    assert run("--config-file", str(config_file), "--resume")[0] == 0  # nothing left to do
    weights = ("MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth"))
    assert (
        run("--config-file", str(config_file), "--eval-only", "--model", "student", *weights)[0]
        == 0
    )
    weights = ("MODEL.WEIGHTS", str(tmp_path / "run" / "teacher_final.pth"))
    assert run("--config-file", str(config_file), "--eval-only", *weights)[0] == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["SOLVER.MAX_ITTER", "3"], ["SOLVER.MAX_ITTER", "SOLVER.MAX_ITER"]),
        (["SSOD.METHODS", "('ScoreTreshold',)"], ["ScoreTreshold", "ScoreThreshold"]),
        (["DATASETS.TRAIN", "('squares_labelled',)"], ["squares_labelled", "squares_labeled"]),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "4"], ["MODEL.ROI_HEADS.NUM_CLASSES", "3"]),
        (
            ["SOLVER.IMS_PER_BATCH", "3", "SOLVER.GRADIENT_ACCUMULATION_STEPS", "2"],
            ["SOLVER.IMS_PER_BATCH"],
        ),
        (["MODEL.WEIGHTS", "nowhere.pth"], ["nowhere.pth"]),
        (["SSOD.BURN_IN_CHECKPOINT", "nowhere.pth"], ["nowhere.pth"]),
        (["SOLVER.OPTIMIZER", "Adam"], ["SOLVER.OPTIMIZER", "AdamW"]),
        (["SSOD.ROI_CLS_LOSS", "hinge"], ["SSOD.ROI_CLS_LOSS", "focal"]),
        (["MODEL.DEVICE", "cuda"], ["MODEL.DEVICE cpu"]),
        (["--eval-only"], ["MODEL.WEIGHTS"]),
    ],
)
def test_wrong_input_is_one_line(
    run: Any, config_file: Path, arguments: list[str], words: list[str]
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, error = run("--config-file", str(config_file), *arguments)
    last = error.strip().splitlines()[-1]
    assert status == 1 and last.startswith("error: ") and "Traceback" not in error
    for word in words:
        assert word in last


def test_missing_and_unsafe_configs(run: Any, tmp_path: Path) -> None:
    status, error = run("--config-file", str(tmp_path / "none.yaml"))
    assert status == 1 and "none.yaml" in error
    unsafe = tmp_path / "unsafe.yaml"
    unsafe.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    status, error = run("--config-file", str(unsafe))
    assert status == 1 and "unsafe.yaml" in error and not (tmp_path / "ran").exists()


def test_truncated_checkpoint(run: Any, config_file: Path, tmp_path: Path) -> None:
    run("--config-file", str(config_file))
    path = tmp_path / "run" / "model_final.pth"
    path.write_bytes(path.read_bytes()[:1000])
    status, error = run("--config-file", str(config_file), "--resume")
    assert status == 1 and "model_final.pth" in error and "Traceback" not in error


@pytest.mark.trains
def test_corrupt_image_is_replaced_and_listed(squares: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "squares"
    shutil.copytree(squares, root)
    (root / "labeled" / "003.png").write_bytes(b"no image")
    cfg: CfgNode = with_squares(tiny_cfg(), root, tmp_path / "run")
    cfg.SOLVER.MAX_ITER = 5  # 10 draws from 8 images: the damaged one is among them
    trainer = train(cfg)
    assert [Path(name).name for name in trainer._trainer.skipped] == ["003.png"]
