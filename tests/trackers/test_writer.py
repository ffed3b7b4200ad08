"""The writer that feeds a tracker: the values that it sends, and that no failure of a tracker stops
a training.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from runs import train
from ssod.engine import trainer as trainer_module
from ssod.engine.interruption import Interrupted
from ssod.errors import UserError
from ssod.trackers import build
from ssod.trackers.base import RunInfo, Tracker, TrackerWriter, flatten, to_rgb
from tiny import tiny_cfg, with_squares


class Recorder(Tracker):
    """Keeps what it gets; raises in the method called `breaks`."""

    name, package, install = "recorder", "json", "recorder"
    breaks = ""
    made: List["Recorder"] = []

    def __init__(self) -> None:
        self.calls: Dict[str, List[Any]] = {}
        Recorder.made.append(self)

    def _keep(self, what: str, *values: Any) -> None:
        if what == self.breaks:
            raise ConnectionError("no route\nto host")
        self.calls.setdefault(what, []).append(values[0] if len(values) == 1 else values)

    def start(self, run: RunInfo) -> str:
        self._keep("start", run)
        return run.former_id or f"id-{len(Recorder.made)}"

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._keep("scalars", dict(values), step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._keep("image", name, pixels, step)

    def files(self, paths: Sequence[str]) -> None:
        self._keep("files", [Path(path).name for path in paths])

    def finish(self, status: str) -> None:
        self._keep("finish", status)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> List[Recorder]:
    """Makes "recorder" a tracker; the list of those that are made."""
    monkeypatch.setitem(build.TRACKERS, "recorder", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder.made


def config(squares: Path, output: Path) -> Any:
    cfg = with_squares(tiny_cfg(), squares, output, ("ScoreThreshold",))
    cfg.merge_from_list(["SOLVER.MAX_ITER", 4, "SSOD.BURN_IN_STEPS", 1, "SSOD.VIS_PERIOD", 2])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 2])
    cfg.DATASETS.TEST, cfg.SSOD.WRITERS = ("squares_test",), ("recorder",)
    return cfg


def test_each_value_is_sent_once() -> None:
    writer = TrackerWriter(Recorder())
    tracker: Any = writer.tracker
    with EventStorage() as storage:
        storage.put_scalar("loss", 2.0, smoothing_hint=False)
        storage.put_image("picture", np.full((3, 2, 4), 0.5))
        writer.write()
        storage.clear_images()
        writer.write()
        storage.step()
        storage.put_scalar("loss", 1.0, smoothing_hint=False)
        writer.write()
        writer.close()
    assert tracker.calls["scalars"] == [({"loss": 2.0}, 0), ({"loss": 1.0}, 1)]
    ((name, pixels, step),) = tracker.calls["image"]
    assert (name, pixels.shape, pixels.dtype, step) == ("picture", (2, 4, 3), np.uint8, 0)
    assert pixels.max() == pixels.min() == 128
    assert "finish" not in tracker.calls


def test_bytes_stay_as_they_are() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert np.array_equal(to_rgb(pixels), pixels.transpose(1, 2, 0))


def test_flatten() -> None:
    rows = flatten({"A": {"B": [1, 2], "C": {"D": True}}, "E": ""})
    assert rows == [("A.B", "[1, 2]"), ("A.C.D", "True"), ("E", "")]


def test_a_run_and_its_continuation(squares: Path, tmp_path: Path, recorder: Any) -> None:
    cfg = config(squares, tmp_path / "run")
    train(cfg, until=2)
    train(cfg, resume=True)
    first, second = (tracker.calls for tracker in recorder)
    assert first["start"][0].former_id is None and second["start"][0].former_id == "id-1"
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"recorder": "id-1"}
    assert first["start"][0].config["SOLVER"]["MAX_ITER"] == 4
    sent = [values for values, _ in second["scalars"]]
    assert any("total_loss" in values for values in sent)
    assert any("teacher/bbox/AP" in values for values in sent)
    assert "test/squares_test/bbox/AP" in sent[-1]
    assert {step for _, step in second["scalars"]} >= {3}
    assert any("pseudo_labels" in name for name, _, _ in second["image"])
    assert second["files"] == [["teacher_final.pth", "results.json"]]
    assert second["finish"] == ["finished"]


def test_a_new_run_in_the_same_folder_is_another_one(
    squares: Path, tmp_path: Path, recorder: Any
) -> None:
    cfg = config(squares, tmp_path / "run")
    cfg.merge_from_list(["DATASETS.TEST", (), "SOLVER.MAX_ITER", 1, "SSOD.BURN_IN_STEPS", 0])
    train(cfg)
    train(cfg)
    assert [tracker.calls["start"][0].former_id for tracker in recorder] == [None, None]


@pytest.mark.parametrize("method", ["start", "scalars", "image", "files", "finish"])
def test_a_tracker_that_fails_is_one_warning(
    squares: Path,
    tmp_path: Path,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    monkeypatch.setattr(Recorder, "breaks", method)
    cfg = config(squares, tmp_path / "run")
    cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()])
    with caplog.at_level(logging.INFO, logger="ssod"):
        train(cfg)
    lines = [r.getMessage() for r in caplog.records if "SSOD.WRITERS" in r.getMessage()]
    assert len(lines) == 1 and "no route to host" in lines[0] and "Training goes on" in lines[0]
    assert (tmp_path / "run" / "teacher_final.pth").exists()
    if method not in ("start", "finish"):
        assert recorder[0].calls["finish"] == ["failed"]


@pytest.mark.parametrize(
    "error, status", [(Interrupted(2), "interrupted"), (ZeroDivisionError(), "failed")]
)
def test_status_of_a_run_that_does_not_end(
    squares: Path,
    tmp_path: Path,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: str,
) -> None:
    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr(trainer_module.SSODTrainer, "run_step", fail)
    with pytest.raises(type(error)):
        train(config(squares, tmp_path / "run"))
    assert recorder[0].calls["finish"] == [status] and "files" not in recorder[0].calls


def test_only_the_first_rank_writes(
    squares: Path, tmp_path: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module.comm, "is_main_process", lambda: False)
    cfg = config(squares, tmp_path / "run")
    cfg.merge_from_list(["SOLVER.MAX_ITER", 1, "SSOD.BURN_IN_STEPS", 0, "DATASETS.TEST", ()])
    train(cfg)
    assert recorder == []


def test_unknown_tracker(squares: Path, tmp_path: Path) -> None:
    cfg = config(squares, tmp_path)
    cfg.SSOD.WRITERS = ("wandbb",)
    with pytest.raises(UserError, match="'wandbb': use wandb or mlflow"):
        train(cfg)


@pytest.mark.parametrize("name, package", [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_tracker_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=f"not installed: pip install {package}"):
        build.check_trackers([name])


def test_packages_are_imported_late() -> None:
    for path in Path(build.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert not re.match(r"(import|from) (wandb|mlflow)", ast.unparse(node)), path


@pytest.mark.parametrize(
    "folder, name",
    [("output/cards/best", "cards/best"), ("output/mine", "mine"), ("/data/x/run", "x/run")],
)
def test_names_of_runs(folder: str, name: str) -> None:
    assert build._run_name(folder) == name
