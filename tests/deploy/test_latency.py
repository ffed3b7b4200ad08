"""Times of the forms of a model, taken in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch

from deploy_rig import family_cfg
from ssod.deploy.latency import Latency, measure, table
from ssod.tools.latency import main
from tiny import with_squares


def test_runners_take_turns() -> None:
    calls: List[str] = []
    runners = {name: lambda image, n=name: calls.append(n) for name in "ab"}
    found = measure(runners, [np.zeros((2, 2, 3), np.uint8)] * 3, rounds=2)
    assert calls[:12] == ["a"] * 6 + ["b"] * 6  # untimed
    assert calls[12:] == ["a", "b"] * 3 + ["b", "a"] * 3
    assert {name: len(row.seconds) for name, row in found.items()} == {"a": 6, "b": 6}
    assert all(seconds >= 0 for row in found.values() for seconds in row.seconds)


def test_table() -> None:
    text = table({"A": Latency([0.01, 0.03, 0.02]), "B": Latency([0.05])})
    assert "| A | 20.0 ms | 12.0 ms | 28.0 ms | 1.00 |" in text
    assert "| B | 50.0 ms | 50.0 ms | 50.0 ms | 2.50 |" in text


def test_command(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from detectron2.modeling import build_model

    cfg: Any = with_squares(family_cfg("faster"), squares, tmp_path)
    (tmp_path / "c.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "w.pth")
    arguments = ["--config-file", str(tmp_path / "c.yaml"), "--weights", str(tmp_path / "w.pth")]
    arguments += ["--images", str(squares / "test"), "--count", "2", "--rounds", "1"]
    main([*arguments, "--threads", "1"])
    printed = capsys.readouterr().out
    assert "| Detectron2 |" in printed and "| TorchScript |" in printed
    assert "2 images of 64 x 64 pixels" in printed and "load average" in printed
    with pytest.raises(SystemExit):
        main([*arguments, "--rounds", "0"])
