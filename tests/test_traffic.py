"""The bytes that ranks send each other, counted on two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runs import method_cfg
from ssod.tools import traffic


def test_bytes_of_a_step(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    methods = ("GradientReweighting", "ClassRebalancingSampling")
    cfg = method_cfg(squares, tmp_path / "run", methods, 4)
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "SSOD.IMS_PER_BATCH_UNLABELED", 2])
    cfg.SSOD.IMPORTS = ("tiny",)
    cfg.SSOD.pop("TOY", None)  # of the tests' own method, which the processes do not know
    (tmp_path / "config.yaml").write_text(cfg.dump())
    arguments = ["--config-file", str(tmp_path / "config.yaml"), "--steps", "2"]
    traffic.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    step = found["step"]
    # Every float32 gradient goes once; norms and other buffers do not.
    trained = found["optimizer_bytes"]  # SGD keeps one momentum a weight
    assert step["gradients"]["bytes"] == trained > 0
    # GbR's matrix has a row and a column for 3 classes and background, in float64, plus what it
    # divides by; it does not grow with images.
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1
    matrix = step["methods/ci_ssod/balance.py"]
    assert matrix["calls"] == 1 and classes**2 * 4 <= matrix["bytes"] <= 2 * classes**2 * 8
    assert found["teacher_bytes"] == found["student_bytes"]
    assert set(step) >= {"engine/loop.py"}


def test_wrong_number_of_steps(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        traffic.main(["--config-file", str(tmp_path), "--steps", "0"])
