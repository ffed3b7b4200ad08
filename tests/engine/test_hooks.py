"""Warnings of collapse, the best teacher, and what writers write."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest

from ssod.engine.hooks import CollapseWatch, Evaluation, TeacherUpdate
from ssod.engine.writers import ConsoleWriter, drop_metrics_after


def at(step: int, hook: Any, max_iter: int = 1000) -> Any:
    hook.trainer = SimpleNamespace(iter=step, max_iter=max_iter)
    return hook


@pytest.mark.parametrize("count, words", [(0.1, "almost nothing"), (30.0, "too much"), (3.0, None)])
def test_collapse_is_reported(storage: Any, caplog: Any, count: float, words: str | None) -> None:
    hook = CollapseWatch(labeled_boxes_per_image=4.0)
    with caplog.at_level(logging.WARNING):
        for step in range(hook.PERIOD):
            storage.iter = step
            storage.put_scalar("pseudo/boxes_per_image", count)
            at(step, hook).after_step()
    messages = [record.message for record in caplog.records]
    assert len(messages) == (0 if words is None else 1)
    assert words is None or words in messages[0]


def test_steps_without_pseudo_labels_do_not_count(storage: Any) -> None:
    hook = CollapseWatch(4.0)
    storage.put_scalar("pseudo/boxes_per_image", 0.0)
    at(0, hook).after_step()
    storage.iter = 1
    at(1, hook).after_step()
    assert hook.counts == [0.0]


def evaluation(ap: Dict[str, float], best: List[Any], mutual_from: int = 0) -> Evaluation:
    def evaluate(role: str) -> Dict[str, Any]:
        return {"val": {"bbox": {"AP": ap[role]}}, "other": {"bbox": {"AP": 99.0}}}

    return Evaluation(10, evaluate, lambda scores, step: best.append((scores, step)), mutual_from)


def test_lagging_teacher_is_reported_in_mutual_learning_only(storage: Any, caplog: Any) -> None:
    best: List[Any] = []
    with caplog.at_level(logging.WARNING):
        at(9, evaluation({"teacher": 20.0, "student": 24.0}, best)).after_step()
        at(9, evaluation({"teacher": 20.0, "student": 26.0}, best, mutual_from=10)).after_step()
        assert not caplog.records
        at(9, evaluation({"teacher": 20.0, "student": 26.0}, best)).after_step()
    assert "SSOD.EMA.DECAY" in caplog.records[0].message
    assert [scores["teacher"] for scores, _ in best] == [20.0] * 3
    assert best[-1] == ({"teacher": 20.0, "student": 26.0}, 10)
    assert storage.latest()["val/teacher/bbox/AP"][0] == 20.0


def test_evaluates_each_period_and_at_the_end(storage: Any) -> None:
    best: List[Any] = []
    hook = evaluation({"teacher": 1.0, "student": 1.0}, best)
    for step in range(25):
        storage.iter = step
        at(step, hook, max_iter=25).after_step()
    assert [step for _, step in best] == [10, 20, 25]


def test_metrics_past_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "x": i}) for i in (19, 39, 59)]
    path.write_text("\n".join(lines) + '\n{"iteration": 7')  # a kill left half a line
    drop_metrics_after(str(path), 39)
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [19, 39]
    drop_metrics_after(str(tmp_path / "none.json"), 3)


def test_console_line_counts_pseudo_labels(storage: Any, caplog: Any) -> None:
    writer = ConsoleWriter(max_iter=100)
    storage.put_scalars(total_loss=1.5, lr=0.01, data_time=0.1)
    storage.put_scalar("pseudo/boxes_per_image", 2.0)
    storage.put_scalar("pseudo/candidates_per_image", 9.0)
    with caplog.at_level(logging.INFO):
        writer.write()
        storage.step()
        writer.write()
    assert "total_loss 1.500" in caplog.records[0].message
    assert "pseudo-boxes/image 2.0 of 9.0" in caplog.records[0].message
    assert "eta 0:" in caplog.records[1].message and "pseudo" not in caplog.records[1].message


def test_no_console_line_after_the_last_step(storage: Any, caplog: Any) -> None:
    writer = ConsoleWriter(max_iter=2)
    with caplog.at_level(logging.INFO):
        for step in range(3):  # training ends with one more write, at step max_iter + 1
            storage.iter = step
            writer.write()
    assert [record.message.split("  ")[0] for record in caplog.records] == ["step 1/2", "step 2/2"]


class Decays:
    """Takes the place of the average, and keeps the calls."""

    def __init__(self) -> None:
        self.done: List[Any] = []

    def update(self, decay: float) -> None:
        self.done.append(round(decay, 6))

    def copy(self) -> None:
        self.done.append("copy")


@pytest.mark.parametrize(
    "copy_at, warmup, expected",
    [
        (None, False, [0.7] * 6),
        (None, True, [0.0, 0.5, 0.666667, 0.7, 0.7, 0.7]),
        # Counted anew from the copy on.
        (2, True, [0.0, 0.5, "copy", 0.0, 0.5, 0.666667, 0.7]),
        (2, False, [0.7, 0.7, "copy", 0.7, 0.7, 0.7, 0.7]),
    ],
)
def test_decay_of_the_average(copy_at: Any, warmup: bool, expected: List[Any]) -> None:
    average = Decays()
    hook = TeacherUpdate(average, 0.7, copy_at, warmup)  # type: ignore[arg-type]
    for step in range(6):
        at(step, hook).before_step()
        hook.after_step()
    assert average.done == expected
