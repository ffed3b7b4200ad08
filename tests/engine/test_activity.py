"""The changes that methods report, and the warning about methods that changed nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest
import torch

from detections import pseudo_labels
from runs import method_cfg, train
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.engine.activity import changed_labels, note_changes, reweighted_rois
from ssod.engine.inert import InertWatch
from ssod.methods import InertPeriod, Method
from ssod.methods.lsm import AreaMining
from ssod.methods.score_threshold import ScoreThreshold
from ssod.structures import PseudoLabels
from steps import bare_context


def labels(*scores: float) -> PseudoLabels:
    return pseudo_labels(scores, [0] * len(scores))


def test_changed_labels() -> None:
    before = labels(0.9, 0.8, 0.1)
    fewer = before.select([torch.tensor([True, True, False])])
    assert float(changed_labels(before, before)) == 0
    assert float(changed_labels(before, fewer)) == 1
    # The weight of a label that nobody learns changes nothing.
    heavier = fewer.with_columns([{"roi_cls_weight": torch.tensor([1.0, 2.0, 3.0])}])
    assert float(changed_labels(fewer, heavier)) == 1
    assert float(changed_labels(before, heavier)) == 2
    rpn = before.select([torch.ones(3, dtype=torch.bool)], [torch.tensor([True, False, False])])
    assert float(changed_labels(before, rpn)) == 2
    assert float(changed_labels(rpn, rpn)) == 0
    # Rows that a method added.
    assert float(changed_labels(labels(0.9), labels(0.9, 0.8))) == 2
    assert float(changed_labels(labels(), labels())) == 0
    assert float(changed_labels(PseudoLabels([]), PseudoLabels([]))) == 0


def outputs(cls: List[float], reg: List[float]) -> ViewOutputs:
    nothing: Any = None
    parts = {"view": nothing, "maps": nothing, "predictions": nothing}
    return ViewOutputs(
        proposals=[],
        anchors=[],
        rois=[],
        cls_weights=torch.tensor(cls),
        reg_weights=torch.tensor(reg),
        **parts,
    )


def test_reweighted_rois() -> None:
    view = outputs([1.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    before = Outputs(view, view)
    assert float(reweighted_rois(before, before)) == 0
    after = replace(before, labeled=outputs([1.0, 0.5, 1.0], [0.0, 0.5, 0.5]))
    assert float(reweighted_rois(before, after)) == 2
    assert float(reweighted_rois(Outputs(view), Outputs(view))) == 0


def test_default_activity_is_what_the_phases_changed() -> None:
    method, now = Method(), bare_context()
    method.name = "Mine"
    assert method.activity(None, None, now) == 0
    before = labels(0.9, 0.1)
    note_changes(now, method, before, before.select([torch.tensor([True, False])]))
    note_changes(now, method, None, {"loss": torch.tensor(-0.5)})
    assert float(method.activity(None, before, now)) == 1.5
    note_changes(now, method, None, {})
    assert float(method.activity(None, before, now)) == 1.5


def test_own_activity_is_not_measured() -> None:
    method, now = ScoreThreshold(threshold=0.5), bare_context()
    method.name = "ScoreThreshold"
    before = labels(0.9, 0.4)
    after = method.refine(before, now)
    note_changes(now, method, before, after)
    assert not now.changes
    assert float(method.activity(None, after, now)) == 1
    assert method.activity(None, None, now) == 0
    empty = method.refine(labels(), now)
    assert float(method.activity(None, empty, now)) == 0


# ---------------------------------------------------------------- the warning


def run(hook: InertWatch, storage: Any, activity: List[Optional[float]], **numbers: float) -> None:
    """Steps with these activities; None where the method reported none."""
    for step, value in enumerate(activity):
        storage.iter = step
        if value is not None:
            storage.put_scalar("activity/ScoreThreshold", value, smoothing_hint=False)
        for key, number in numbers.items():
            storage.put_scalar(f"pseudo/{key}", number)
        hook.trainer = SimpleNamespace(iter=step)  # type: ignore[assignment]
        hook.after_step()


@pytest.fixture
def method() -> ScoreThreshold:
    built = ScoreThreshold(threshold=0.7)
    built.name = "ScoreThreshold"
    return built


SEEN = {"best_score": 0.41, "candidates_per_image": 3.0, "boxes_per_image": 0.0}


def messages(caplog: Any) -> List[str]:
    return [record.message for record in caplog.records]


@pytest.mark.parametrize(
    "activity, start, count",
    [
        ([0.0] * 9, 0, 1),  # once, however long it lasts
        ([0.0] * 4, 0, 1),
        ([0.0] * 3, 0, 0),
        ([0.0, 0.0, 0.1, 0.0, 0.0, 0.0], 0, 0),  # a single label is enough
        ([0.0] * 9, 6, 0),  # burn-in does not count
        ([0.0] * 10, 6, 1),
        ([None] * 4, 0, 1),
    ],
)
def test_inert_method_is_reported_once(
    storage: Any, caplog: Any, method: Any, activity: List[Any], start: int, count: int
) -> None:
    with caplog.at_level(logging.WARNING):
        run(InertWatch([method], start, period=4), storage, activity, **SEEN)
    assert len(messages(caplog)) == count


def test_warning_says_why(storage: Any, caplog: Any, method: Any) -> None:
    with caplog.at_level(logging.WARNING):
        run(InertWatch([method], 0, period=2), storage, [0.0, 0.0], **SEEN)
    (message,) = messages(caplog)
    assert message.startswith("ScoreThreshold changed nothing in the 2 steps up to 2: ")
    assert (
        "no teacher score passes 0.7: the best is 0.41; lower SSOD.SCORE_THRESHOLD or " in message
    )
    assert "\n" not in message


def test_another_reason_is_another_warning(storage: Any, caplog: Any, method: Any) -> None:
    reasons = iter(["warm-up until 5", "warm-up until 6", "no label"])
    method.inert_reason = lambda period: next(reasons)
    with caplog.at_level(logging.WARNING):
        run(InertWatch([method], 0, period=2), storage, [0.0] * 6)
    assert [message.split(": ")[1] for message in messages(caplog)] == [
        "warm-up until 5.",
        "no label.",
    ]


def test_mean_activity(storage: Any, method: Any) -> None:
    run(InertWatch([method], 0, period=100), storage, [0.0] * 15 + [1.0] * 15)
    assert storage.latest()["activity_mean/ScoreThreshold"][0] == pytest.approx(15 / 20)


def period(best: float, candidates: float = 3.0, selected: float = 0.0) -> InertPeriod:
    return InertPeriod(10, 20, best, candidates, selected)


def test_reasons() -> None:
    assert "it finds nothing" in str(period(0.0).no_score_passes(0.7, "KEY"))
    assert period(0.7).no_score_passes(0.7, "KEY") is None
    assert "PSEUDO_SCORE_FLOOR" in Method().inert_reason(period(0.0, candidates=0.0))
    assert "the best teacher score is 0.90" in Method().inert_reason(period(0.9))
    assert "2 selected of 3 labels an image" in Method().inert_reason(period(0.9, selected=2.0))
    mining = AreaMining(threshold=0.7, low_threshold=0.5, min_area=100.0)
    assert "no teacher score passes 0.5" in mining.inert_reason(period(0.3))
    assert "no box of more than 100 square pixels" in mining.inert_reason(period(0.9))


def test_trainer_warns(squares: Any, tmp_path: Any, caplog: Any) -> None:
    cfg = method_cfg(squares, tmp_path, ("ScoreThreshold",), 4)
    cfg.SSOD.SCORE_THRESHOLD = 0.99
    with caplog.at_level(logging.INFO):
        train(cfg)
    found = [message for message in messages(caplog) if "changed nothing" in message]
    assert len(found) == 1 and "no teacher score passes 0.99: the best is 0." in found[0]


def test_every_reason_is_a_line(squares: Any, tmp_path: Any) -> None:
    """Checks the reasons of every registered method, in a run, for periods of all kinds."""
    from runs import METHOD_NAMES
    from ssod.engine.trainer import SSODTrainer

    seen: Dict[str, str] = {}
    for name in METHOD_NAMES:
        trainer = SSODTrainer(method_cfg(squares, tmp_path / name, (name,), 4))
        for one in (period(0.0, 0.0), period(0.05), period(0.9, selected=1.0)):
            seen[name] = trainer.core.methods[name].inert_reason(one)
            assert seen[name] and "\n" not in seen[name] and not seen[name].endswith(".")
