"""Bars of training and of loops: on a terminal only, and by the first process alone."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import List

import pytest
from detectron2.utils import comm

from runs import train
from ssod.engine.progress_bar import TrainingBar, training_bar
from ssod.utils import progress as module
from ssod.utils.progress import progress
from tiny import tiny_cfg, with_squares


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be called in the test: pytest has a stderr of its own for fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "_DELAY", 0.0)
    return stream


def test_a_loop_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    assert list(progress([1, 2, 3], "counting", unit="sheep")) == [1, 2, 3]
    assert "counting" in terminal.getvalue() and "sheep" in terminal.getvalue()


def test_a_short_loop_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(module, "_DELAY", 1e6)
    assert list(progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert "counting" not in terminal.getvalue()


def test_no_terminal_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "_DELAY", 0.0)
    assert list(progress(iter([1, 2]), "counting")) == [1, 2]
    assert training_bar() == [] and stream.getvalue() == ""


def test_other_processes_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert list(progress([1, 2], "counting")) == [1, 2]
    assert terminal.getvalue() == ""


@pytest.mark.trains
def test_training_counts_its_steps(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.SOLVER.MAX_ITER = 3
    trainer = train(cfg)
    bars: List[TrainingBar] = [hook for hook in trainer._hooks if isinstance(hook, TrainingBar)]
    assert len(bars) == 1 and bars[0]._bar.n == 3
    assert "training" in terminal.getvalue() and "loss" in terminal.getvalue()


def test_evaluation_counts_its_images(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.DATASETS.TEST, cfg.SOLVER.MAX_ITER = ("squares_test",), 1
    train(cfg)
    assert "evaluating on squares_test" in terminal.getvalue()
