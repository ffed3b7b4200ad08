"""Starting processes, with gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils import comm
from torch import nn

from ssod.engine.launch import _cores, _free_port, launch, wrap_ddp
from ssod.errors import UserError

HERE = Path(__file__).parent


@pytest.mark.trains
def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    from launch_targets import train_and_fail

    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((20, 20, 3), dtype=np.uint8))
    # The mistake of rank 1 ends both, although rank 0 waits for it, and arrives here as it was
    # raised.
    with pytest.raises(UserError, match="^SSOD.TYPO is wrong: correct it.$"):
        launch(train_and_fail, 2, args=(str(tmp_path),), device="cpu")
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    assert first["ranks"] == [0, 1] and second["ranks"] == []
    assert (first["local"], second["local"]) == ((0, 2), (1, 2))
    assert first["world"] == second["world"] == 2
    assert torch.equal(first["weight"], second["weight"])  # DDP copied rank 0's
    assert float(first["grad"]) == float(second["grad"]) == 0.5  # mean of the inputs 0 and 1
    assert first["threads"] == max(1, _cores() // 2)


def test_torchrun_environment(tmp_path: Path) -> None:
    common = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common.update(
        MASTER_PORT=str(_free_port()), PYTHONPATH=os.pathsep.join(p for p in sys.path if p)
    )
    command = [sys.executable, str(HERE / "launch_targets.py"), str(tmp_path)]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert [(tmp_path / f"torchrun{rank}").read_text() for rank in (0, 1)] == ["0 2", "1 2"]


def test_one_process_runs_here() -> None:
    seen = []
    launch(seen.append, 1, args=(5,), device="cpu")
    assert seen == [5] and comm.get_world_size() == 1
    module = nn.Linear(1, 1)
    assert wrap_ddp(module) is module


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_gpus_per_machine": 0}, "--num-gpus 0"),
        ({"num_gpus_per_machine": 1, "num_machines": 2}, "--num-machines needs --dist-url"),
        (
            {"num_gpus_per_machine": 1, "num_machines": 2, "machine_rank": 2},
            "--machine-rank 2: use 0 to 1",
        ),
    ],
)
def test_wrong_numbers(arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch(print, device="cpu", **arguments)


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="add MODEL.DEVICE cpu"):
        launch(print, 1, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="--num-gpus 4, but this machine has 2"):
        launch(print, 4, device="cuda")
