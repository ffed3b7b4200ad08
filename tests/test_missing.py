"""Packages that are missing and memory that is exhausted are one line; so are a config without
ssod's keys and Ctrl-C.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest
import torch
from detectron2.config import get_cfg

from runs import train
from ssod.engine.loop import TrainLoop
from ssod.engine.setup import run_cli
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from tiny import tiny_cfg, with_squares

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", ["cv2", "detectron2", "pycocotools", "tensorboard"])
@pytest.mark.parametrize("command", [["train_net.py"], ["-m", "ssod.tools.export"]])
def test_missing_package_is_one_line(
    squares: Path, tmp_path: Path, package: str, command: List[str]
) -> None:
    if package == "tensorboard" and "-m" in command:
        pytest.skip("export does not need it")
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{package!r}] = None")
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.SSOD.IMPORTS = ("tiny",)
    cfg.SSOD.pop("TOY", None)  # another test may have registered it
    (tmp_path / "c.yaml").write_text(cfg.dump())
    more = ["--config-file", str(tmp_path / "c.yaml")]
    if "-m" in command:
        more += ["--weights", "none.pth", "--output", str(tmp_path / "out")]
    paths = [str(tmp_path), str(ROOT / "projects"), str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *command, *more], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    if package == "pycocotools" and "-m" in command:
        return  # something else is missed before it
    assert "ssod.tools.doctor" in lines[0]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_exhausted_memory_names_what_helps(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(TrainLoop, "_forward", fail)
    with pytest.raises(UserError, match="memory is exhausted in step 0") as caught:
        train(with_squares(tiny_cfg(), squares, tmp_path))
    for key in ("SOLVER.GRADIENT_ACCUMULATION_STEPS", "SOLVER.AMP.ENABLED", "INPUT.MAX_SIZE_TRAIN"):
        assert key in str(caught.value)


def test_config_without_our_keys() -> None:
    with pytest.raises(UserError, match="add_ssod_config"):
        SSODTrainer(get_cfg())


def test_ctrl_c_outside_of_training(capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    assert stop.value.code == 130 and capsys.readouterr().err == "Stopped by Ctrl-C.\n"
