"""Reading run folders as they are: going on, killed, resumed, empty."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml

from ssod.errors import UserError
from ssod.plotting.run_data import load_runs, read_metrics


def make_run(root: Path, name: str = "run", **config: Any) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    content: Dict[str, Any] = {
        "SOLVER": {"MAX_ITER": 60},
        "DATASETS": {"TRAIN": ["few"], "TEST": ["test"], "VAL": [], "UNLABELED": ["many"]},
        "SSOD": {"METHODS": ["ScoreThreshold"], "BURN_IN_STEPS": 30, "DATASETS": {}},
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def write_metrics(folder: Path, *lines: Dict[str, Any], tail: str = "") -> None:
    (folder / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines) + tail)


def test_half_written_and_repeated_lines(tmp_path: Path) -> None:
    """A resumed run can have written an iteration twice, and a kill leaves half a line."""
    write_metrics(
        tmp_path,
        {"iteration": 19, "loss_cls": 2.0, "lr": 0.1},
        {"iteration": 39, "loss_cls": 9.0, "teacher/bbox/AP": float("nan")},
        {"iteration": 19, "loss_cls": 1.0},
        {"iteration": 39, "loss_cls": 0.5},
        tail='{"iteration": 59, "loss_c',
    )
    metrics = read_metrics(str(tmp_path / "metrics.json"))
    assert list(metrics) == [19, 39]
    assert metrics[19] == {"loss_cls": 1.0, "lr": 0.1} and metrics[39]["loss_cls"] == 0.5
    (run,) = load_runs([str(tmp_path)])
    assert run.series("loss_cls") == [(20, 1.0), (40, 0.5)]
    assert run.series("teacher/bbox/AP") == []  # NaN


def test_states(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write_metrics(folder, {"iteration": 39, "time": 0.5})
    written = os.path.getmtime(folder / "metrics.json")

    def state(age: float) -> str:
        return load_runs([str(folder)], now=written + age)[0].state

    assert state(100) == "running" and state(301) == "stopped"
    write_metrics(folder, {"iteration": 39, "time": 10.0})  # a slow one writes every 200 s
    os.utime(folder / "metrics.json", (written, written))
    assert state(1000) == "running" and state(2001) == "stopped"
    write_metrics(folder, {"iteration": 59})
    os.utime(folder / "metrics.json", (written, written))
    assert state(1000) == "stopped"  # killed in the last evaluation
    (folder / "results.json").write_text("{}")
    (folder / "teacher_final.pth").write_text("")
    assert state(1000) == "finished"


def test_steps_as_rescaled_by_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / "log.txt").write_text(
        "[11/21 07:30:13] ssod.engine.setup INFO: ssod 0.1, Detectron2 0.6, PyTorch 2.15, 2 process(es) on cuda, "
        "configs/a.yaml, output in output/a\n"
        "[11/21 07:30:34] ssod.engine.writers INFO: step 20/120  eta 0:11:10\n"
    )
    (run,) = load_runs([str(folder)])
    assert (run.steps_total, run.burn_in_end, run.steps_done) == (120, 60, 0)
    assert run.config_name == "configs/a.yaml" and run.starts == ["11/21 07:30:13"]


def test_log_warnings_and_skipped_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / "log.txt").write_text(
        "[11/21 07:30:34] ssod.engine.hooks WARNING: 0.01 pseudo-boxes per image over 200 steps\n"
        "[11/21 07:30:35] ssod.engine.loop WARNING: Cannot use a (1).png (broken (header)); another image takes its "
        "place. 1 such files so far.\n"
        "[11/21 07:30:36] fvcore.common WARNING: not ours\n"
        "[11/21 07:30"
    )
    (run,) = load_runs([str(folder)])
    assert run.warnings == [("11/21 07:30:34", "0.01 pseudo-boxes per image over 200 steps")]
    assert run.skipped_files == {"a (1).png": "broken (header)"} and run.skipped_boxes == {}
    (folder / "skipped_images.json").write_text(json.dumps({"b.png": "it does not exist"}))
    (folder / "skipped_boxes.json").write_text(json.dumps({"x.json": [{"label": "annotation 3"}]}))
    assert run.skipped_files == {"a (1).png": "broken (header)", "b.png": "it does not exist"}
    assert run.skipped_boxes == {"x.json": [{"label": "annotation 3"}]}


def test_measured_ap_prefers_the_final_test(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write_metrics(
        folder,
        {"iteration": 19, "teacher/bbox/AP": 10.0, "teacher/bbox/AP-cat": 5.0},
        {
            "iteration": 39,
            "teacher/bbox/AP": 20.0,
            "teacher/bbox/AP-cat": 8.0,
            "student/bbox/AP": 1.0,
        },
    )
    (run,) = load_runs([str(folder)])
    assert run.measured_ap() == {("test", "teacher at step 40"): {"AP": 20.0, "AP-cat": 8.0}}
    best = {"AP": 20.0, "step": 40, "test": {"test": {"bbox": {"AP": 19.0}}}}
    (folder / "results.json").write_text(json.dumps({"teacher_best": best, "steps": 60}))
    (run,) = load_runs([str(folder)])
    assert run.measured_ap() == {("test", "best teacher, step 40"): {"AP": 19.0}}


def test_several_validation_sets(tmp_path: Path) -> None:
    folder = make_run(tmp_path, DATASETS={"VAL": ["a", "b"]})
    write_metrics(folder, {"iteration": 9, "a/teacher/bbox/AP": 1.0, "b/teacher/bbox/AP": 2.0})
    (run,) = load_runs([str(folder)])
    assert {k[0]: v["AP"] for k, v in run.measured_ap().items()} == {"a": 1.0, "b": 2.0}


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    folders = [str(make_run(tmp_path, name)) for name in ("x/seed1", "y/seed1", "y/seed2")]
    assert [run.name for run in load_runs(folders)] == ["x/seed1", "y/seed1", "y/seed2"]
    assert [run.name for run in load_runs(folders[:1])] == ["seed1"]
    assert len(load_runs([folders[0], folders[0] + "/"])) == 1


def test_quality_files_by_step(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    quality = folder / "pseudo_quality"
    quality.mkdir()
    for step, value in ((100, 0.7), (20, 0.5), (30, float("nan"))):
        record = {"step": step, "selected": {"precision": value}}
        (quality / f"step_{step}.json").write_text(json.dumps(record))
    (quality / "step_200.json.tmp").write_text("{")
    (quality / "step_300.json").write_text("{")
    (run,) = load_runs([str(folder)])
    assert run.quality_series("precision") == [(20, 0.5), (100, 0.7)]


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        load_runs([str(tmp_path / "none")])
    make_run(tmp_path / "runs", "first")
    with pytest.raises(UserError, match="it holds the runs first"):
        load_runs([str(tmp_path / "runs")])
    (tmp_path / "runs" / "first" / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="no valid YAML"):
        load_runs([str(tmp_path / "runs" / "first")])
