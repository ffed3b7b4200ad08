"""Signals, a second run in the same OUTPUT_DIR, and a checkpoint with more steps than are asked
for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from detectron2.config import CfgNode

from runs import state_of, train
from ssod.engine.hooks import TeacherUpdate
from ssod.engine.interruption import Interrupted, OnSignal
from ssod.engine.launch import launch
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.utils import run_lock
from tiny import tiny_cfg, with_squares

HERE = Path(__file__).parent
STEPS = 8


def config(squares: Path, output: Path) -> CfgNode:
    cfg = with_squares(tiny_cfg(), squares, output, ("ScoreThreshold",))
    cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", 0.1, "SOLVER.MAX_ITER", STEPS])
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 100])
    cfg.DATASETS.TEST = ("squares_test",)
    return cfg


class Stopped(SSODTrainer):
    """A run that gets a signal in a step, or in the first evaluation after it."""

    number = signal.SIGTERM
    at_step, at_evaluation = -1, -1

    def run_step(self) -> None:
        if self.iter == self.at_step:
            os.kill(os.getpid(), self.number)
        super().run_step()

    def _evaluate(self, role: str) -> Any:
        if self.iter >= self.at_evaluation >= 0:
            os.kill(os.getpid(), self.number)
        return super()._evaluate(role)


@pytest.mark.parametrize("where", ["at_step", "at_evaluation"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_bits(
    squares: Path, tmp_path: Path, where: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(squares, tmp_path / "whole"))
    monkeypatch.setattr(Stopped, where, 3)
    monkeypatch.setattr(Stopped, "number", number)
    former = signal.getsignal(number)
    trainer = Stopped(config(squares, tmp_path / "run"))
    trainer.resume_or_load(resume=False)
    with pytest.raises(Interrupted) as stop:
        trainer.train()
    assert stop.value.code == 128 + number and signal.getsignal(number) is former
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000003.pth"
    resumed = train(config(squares, tmp_path / "run"), resume=True)
    assert resumed.start_iter == 4 and resumed.best == whole.best
    found, expected = state_of(resumed), state_of(whole)
    assert all((found[name] == value).all() for name, value in expected.items())


@pytest.fixture
def command(squares: Path, tmp_path: Path) -> Iterator[List[str]]:
    """A long run in a process of its own, in a process group of its own."""
    cfg = config(squares, tmp_path / "run")
    cfg.merge_from_list(["SOLVER.MAX_ITER", 100_000, "DATALOADER.NUM_WORKERS", 2])
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 0])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    yield [sys.executable, str(HERE.parent / "run_tiny.py"), str(tmp_path / "config.yaml")]


def start(command: List[str], output: Path) -> "subprocess.Popen[bytes]":
    """Starts a run and waits until it has taken a step."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    metrics = output / "metrics.json"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.05)
    return process


def test_a_signal_to_all_processes_and_a_second_run(
    command: List[str], squares: Path, tmp_path: Path
) -> None:
    """As a terminal or a scheduler sends it: to loader workers too."""
    process = start(command, tmp_path / "run")
    with pytest.raises(UserError, match=rf"Another run .*{process.pid}.*another OUTPUT_DIR"):
        SSODTrainer(config(squares, tmp_path / "run")).resume_or_load(resume=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in errors
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Stopped by Ctrl-C" in log and "--resume" in log
    assert (tmp_path / "run" / "last_checkpoint").exists()


def test_a_killed_run_leaves_no_lock(command: List[str], tmp_path: Path) -> None:
    process = start(command, tmp_path / "run")
    with pytest.raises(UserError, match="Another run"):
        run_lock.check_free(str(tmp_path / "run"))
    process.kill()
    process.communicate()
    run_lock.check_free(str(tmp_path / "run"))


def wait_for_signal(folder: str) -> None:
    """The function that each of two processes runs."""
    stop: List[int] = []
    with OnSignal(stop.append, lambda number: None):
        (Path(folder) / str(os.getpid())).touch()
        while len(list(Path(folder).iterdir())) < 2:
            time.sleep(0.01)
        if os.getpid() == min(int(path.name) for path in Path(folder).iterdir()):
            os.kill(os.getppid(), signal.SIGTERM)
        while not stop:
            time.sleep(0.01)
    raise Interrupted(stop[0])


def test_a_signal_reaches_every_process(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as stop:
        launch(wait_for_signal, 2, args=(str(tmp_path),), device="cpu")
    assert stop.value.number == signal.SIGTERM


def test_second_signal_ends_at_once(squares: Path, tmp_path: Path) -> None:
    trainer = SSODTrainer(config(squares, tmp_path))
    with pytest.raises(Interrupted), trainer.stop_request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert trainer.stop_request.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)


def test_second_signal_in_a_hook_writes_no_checkpoint(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There it would hold a step whose teacher may lack the update."""
    cfg = config(squares, tmp_path / "run")
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.VAL", (), "DATASETS.TEST", ()])
    whole = cfg.clone()
    whole.OUTPUT_DIR = str(tmp_path / "whole")
    update = TeacherUpdate.after_step

    def stopped(hook: TeacherUpdate) -> None:
        if hook.trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        update(hook)

    with monkeypatch.context() as patch:
        patch.setattr(TeacherUpdate, "after_step", stopped)
        with pytest.raises(Interrupted):
            train(cfg)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000001.pth"
    assert "at once, in step 3 of 8" in capsys.readouterr().out
    found, expected = state_of(train(cfg, resume=True)), state_of(train(whole))
    assert all((found[name] == value).all() for name, value in expected.items())


def test_fewer_steps_than_there_are(squares: Path, tmp_path: Path) -> None:
    cfg = config(squares, tmp_path / "run")
    train(cfg.clone())
    cfg.SOLVER.MAX_ITER = STEPS - 1
    with pytest.raises(UserError, match=r"8 steps behind it and SOLVER.MAX_ITER is 7"):
        train(cfg, resume=True)


@pytest.mark.parametrize("first, then", [("SGD", "AdamW"), ("AdamW", "SGD")])
def test_another_optimiser(squares: Path, tmp_path: Path, first: str, then: str) -> None:
    cfg = config(squares, tmp_path / "run")
    cfg.merge_from_list(["SOLVER.OPTIMIZER", first, "SOLVER.MAX_ITER", 1])
    train(cfg)
    cfg.merge_from_list(["SOLVER.OPTIMIZER", then, "SOLVER.MAX_ITER", 2])
    with pytest.raises(UserError, match=f"another optimiser than SOLVER.OPTIMIZER {then}"):
        train(cfg, resume=True)
