"""The filter in the training step."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from detections import detections
from runs import method_cfg, train
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import StepContext, TrainingData, build_methods
from ssod.methods.acrst.two_stage.head_quality import HeadQuality
from ssod.methods.acrst.two_stage.report import two_stage_section
from ssod.plotting.run_data import RunData
from ssod.structures import PseudoLabels, View, Views
from steps import batch, cfg_with, core_of, no_images, teacher_finds
from tiny import CLASSES, tiny_cfg


def build(*keys: Any) -> TeacherStudent:
    own = ["SSOD.TWO_STAGE_FILTER.WARMUP_STEPS", 0]
    return core_of(cfg_with(("TwoStageFilter",), *own, *keys), data=no_images())


def set_head(core: TeacherStudent, logits: List[float]) -> None:
    """The teacher's head activates classes whatever the image."""
    head = core.teacher.ssod_heads["TwoStageFilter"].linear
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(logits))


def test_both_stages_select(storage: Any) -> None:
    core = build()
    set_head(core, [-1.0, -2.0, 3.0])  # 0.27, 0.12 and 0.95: class 1 is inactive
    teacher_finds(core, [detections([0.9, 0.8, 0.6], [0, 1, 2]), detections([], [])])
    losses = core(batch())
    assert core.last_pseudo is not None
    assert [row.selected.tolist() for row in core.last_pseudo.instances] == [
        [True, False, False],
        [],
    ]
    assert {"loss_multi_label", "loss_multi_label_unlabeled"} < set(losses)
    latest = storage.latest()
    assert latest["two_stage_filter/first_stage_per_image"][0] == pytest.approx(1.0)
    assert latest["two_stage_filter/kept_per_image"][0] == pytest.approx(0.5)
    assert latest["two_stage_filter/active/green"][0] == 0.0
    assert latest["two_stage_filter/active/blue"][0] == pytest.approx(1.0)


def test_mining_adds_to_the_first_stage(storage: Any) -> None:
    core = build("SSOD.TWO_STAGE_FILTER.MODE", "mine")
    set_head(core, [-1.0, -2.0, 3.0])
    teacher_finds(core, [detections([0.9, 0.8, 0.6, 0.6], [0, 1, 2, 1]), detections([], [])])
    core(batch())
    assert core.last_pseudo is not None
    assert core.last_pseudo.instances[0].selected.tolist() == [True, True, True, False]


def test_image_level_targets(monkeypatch: pytest.MonkeyPatch, storage: Any) -> None:
    """The teacher's activations and the classes of what was pasted; labelled images: their boxes,
    view by view.
    """
    core = build()
    set_head(core, [3.0, -3.0, -3.0])
    method: Any = core.methods["TwoStageFilter"]
    seen: List[torch.Tensor] = []
    loss = method._loss
    monkeypatch.setattr(method, "_loss", lambda logits, p: (seen.append(p), loss(logits, p))[1])

    def paste(views: Views, pseudo: Any, context: StepContext) -> Views:
        if views.unlabeled is None:
            return views
        first = PseudoLabels.from_detections([detections([0.9], [2])]).instances[0]
        none = PseudoLabels.from_detections([detections([], [])]).instances[0]
        return replace(
            views, unlabeled=replace(views.unlabeled, pseudo=PseudoLabels([first, none]))
        )

    monkeypatch.setattr(method, "views", paste)
    teacher_finds(core, [detections([], []), detections([], [])])
    given = batch(labeled=1)
    sample = given.labeled[0]
    changed = Instances((64, 64))
    changed.gt_boxes, changed.gt_classes = Boxes(torch.tensor([[1.0, 1, 9, 9]])), torch.tensor([1])
    assert sample.instances is not None
    sample.instances.gt_classes = torch.zeros_like(sample.instances.gt_classes)
    given.labeled[0] = replace(sample, strong_instances=changed)
    core(given)
    labeled, unlabeled = seen
    assert labeled.tolist() == [[False, True, False], [True, False, False]]  # strong, then weak
    assert unlabeled.tolist() == [[True, False, True], [True, False, False]]


def test_no_pseudo_labels_and_no_labeled_images(monkeypatch: Any, storage: Any) -> None:
    core = build()
    teacher_finds(core, [detections([], []), detections([], [])])
    method = core.methods["TwoStageFilter"]
    losses = core(batch())
    assert all(torch.isfinite(loss) for loss in losses.values())
    # Micro-batches without any labelled image: the phase alone, since the detector's own losses
    # need one.
    student_outputs: Dict[str, Any] = {}
    monkeypatch.setattr(
        method,
        "update",
        lambda outputs, pseudo, context: student_outputs.update(o=outputs, c=context),
    )
    core(batch())
    outputs = student_outputs["o"]
    empty = replace(outputs.labeled, view=View([], []), maps=outputs.labeled.maps.select(0, 0))
    found = method.losses(replace(outputs, labeled=empty), core.last_pseudo, student_outputs["c"])
    assert found["loss_multi_label"].item() == 0.0
    assert found["loss_multi_label_unlabeled"].item() > 0.0


@pytest.mark.parametrize("mode", ["filter", "mine"])
def test_warm_up(mode: str, monkeypatch: pytest.MonkeyPatch, storage: Any) -> None:
    """Until the head has had its labelled steps, the score alone selects and unlabelled images
    teach it nothing.
    """
    core = build("SSOD.TWO_STAGE_FILTER.MODE", mode, "SSOD.TWO_STAGE_FILTER.WARMUP_STEPS", 2)
    set_head(core, [-1.0, -2.0, 3.0])
    teacher_finds(core, [detections([0.9, 0.8, 0.6], [0, 1, 2]), detections([], [])])
    head = core.student.ssod_heads["TwoStageFilter"]
    chosen, losses = [], []
    for core.step in (0, 0, 1, 2):  # two micro-batches of step 0
        losses.append(core(batch())["loss_multi_label_unlabeled"])
        assert core.last_pseudo is not None
        chosen.append(core.last_pseudo.instances[0].selected.tolist())
    assert int(head.labeled_steps) == 3
    after = [True, False, False] if mode == "filter" else [True, True, True]
    assert chosen == [[True, True, False]] * 3 + [after]
    assert [bool(loss > 0) for loss in losses] == [False, False, False, True]
    assert float(core.last_numbers["activity/TwoStageFilter"]) == 0.5  # of two images
    losses[0].backward()
    assert not head.linear.weight.grad.any()


def test_warm_up_counts_steps_with_labelled_images(storage: Any) -> None:
    core = build("SSOD.TWO_STAGE_FILTER.WARMUP_STEPS", -1, "SSOD.BURN_IN_STEPS", 7)
    method: Any = core.methods["TwoStageFilter"]
    assert method.warmup == 7
    core(batch(2, 0))
    head = core.student.ssod_heads["TwoStageFilter"]
    assert int(head.labeled_steps) == 1
    assert "ssod_heads.TwoStageFilter.labeled_steps" in core.student.state_dict()


def test_bias_is_the_prior_of_the_labelled_set() -> None:
    torch.manual_seed(0)
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("TwoStageFilter",)
    methods = build_methods(cfg)
    records = [{"annotations": [{"category_id": k} for k in row]} for row in ([0, 0], [0, 1])]
    methods["TwoStageFilter"].setup(TrainingData(records, [], CLASSES))  # type: ignore[operator]
    core = TeacherStudent.from_config(cfg, build_model(cfg), methods)
    bias = core.teacher.ssod_heads["TwoStageFilter"].linear.bias
    assert bias.sigmoid().tolist() == pytest.approx([0.75, 0.5, 0.25])


def test_burn_in_trains_the_head_on_labeled_images(storage: Any) -> None:
    core = build()
    losses = core(batch(1, 0))
    assert "loss_multi_label" in losses and "loss_multi_label_unlabeled" not in losses
    sum(losses.values()).backward()
    assert float(core.student.ssod_heads["TwoStageFilter"].linear.weight.grad.abs().sum()) > 0


def test_bad_values_are_refused() -> None:
    for key, value in (
        ("MODE", "mining"),
        ("SCORE_THRESHOLD", 1.5),
        ("IMAGE_THRESHOLD", -0.1),
        ("WARMUP_STEPS", -2),
    ):
        with pytest.raises(UserError, match=f"SSOD.TWO_STAGE_FILTER.{key}"):
            build(f"SSOD.TWO_STAGE_FILTER.{key}", value)
    with pytest.raises(UserError, match="cannot be combined"):
        build("SSOD.METHODS", ("TwoStageFilter", "ScoreThreshold"))


def test_report_section(tmp_path: Path) -> None:
    assert two_stage_section(RunData(str(tmp_path), "run")) is None
    values = {
        "two_stage_filter/first_stage_per_image": 2.0,
        "two_stage_filter/kept_per_image": 1.5,
        "two_stage_filter/active/<red>": 0.25,
        "two_stage_filter/first_stage/<red>": 2.0,
        "two_stage_filter/kept/<red>": 1.5,
        "two_stage_filter/active/blue": 0.0,
        "two_stage_filter/first_stage/blue": 0.0,
        "two_stage_filter/kept/blue": 0.0,
    }
    run = RunData(str(tmp_path), "run", metrics={19: values, 39: json.loads(json.dumps(values))})
    section = two_stage_section(run)
    assert section is not None
    assert "is not measured" in section.html and "before and after" not in section.html
    assert "<red>" not in section.html and "&lt;red&gt;" in section.html
    assert "<td>25.0</td><td>2.000</td><td>1.500</td><td>-25.0</td>" in section.html
    assert "<td>0.0</td><td>0.000</td><td>0.000</td><td>–</td>" in section.html


def test_report_shows_the_head_and_what_the_filter_removes(tmp_path: Path) -> None:
    values = {
        "two_stage_filter/first_stage_per_image": 2.0,
        "two_stage_filter/kept_per_image": 1.5,
        "two_stage_filter/first_stage/red": 2.0,
        "two_stage_filter/head_auc": 0.8,
        "two_stage_filter/head_auc/red": 0.75,
        "two_stage_filter/head_calibration_error/red": 0.125,
        "two_stage_filter/head_active/red": 0.5,
        "two_stage_filter/head_present/red": 0.25,
        "two_stage_filter/head_present/blue": 1.0,  # in all images: no AUC
    }
    row = {"precision": 0.5, "recall": 0.25, "mean_iou": 0.75, "per_class": {"red": {"count": 8}}}
    quality = {20: {"step": 20, "first_stage": row, "selected": {**row, "precision": 0.625}}}
    run = RunData(str(tmp_path), "run", metrics={19: values}, quality=quality)
    section = two_stage_section(run)
    assert section is not None
    assert "<td>0.750</td><td>0.125</td><td>50.0</td><td>25.0</td>" in section.html
    assert "<td>–</td><td>–</td><td>–</td><td>100.0</td>" in section.html
    assert "<td>0.500</td><td>0.250</td><td>0.750</td><td>8</td>" in section.html
    assert "<td>0.625</td>" in section.html


@pytest.mark.trains
def test_run_measures_the_head_and_the_first_stage(squares: Path, tmp_path: Path) -> None:
    cfg = method_cfg(squares, tmp_path, ("TwoStageFilter",), 4)
    cfg.SSOD.DATASETS.squares_unlabeled.TRUTH = str(squares / "unlabeled.json")
    cfg.DATASETS.VAL = ("squares_test",)
    trainer = train(cfg)
    latest = trainer.storage.latest()
    truth = json.loads((squares / "test.json").read_text())
    for label, name in enumerate(CLASSES, start=1):
        images = {a["image_id"] for a in truth["annotations"] if a["category_id"] == label}
        share = len(images) / len(truth["images"])
        assert latest[f"two_stage_filter/head_present/{name}"][0] == pytest.approx(share)
        assert 0 <= latest[f"two_stage_filter/head_calibration_error/{name}"][0] <= 1
        if 0 < share < 1:
            assert 0 <= latest[f"two_stage_filter/head_auc/{name}"][0] <= 1
    record = json.loads((tmp_path / "pseudo_quality" / "step_4.json").read_text())
    assert record["compared"] == ["first_stage"]
    counts = {
        name: sum(row["count"] for row in record[name]["per_class"].values())
        for name in ("candidates", "first_stage", "selected")
    }
    assert counts["candidates"] >= counts["first_stage"] >= counts["selected"]
    assert latest["pseudo_quality/first_stage_recall"][0] == record["first_stage"]["recall"]


def test_a_class_that_is_removed_as_a_whole_is_reported_once(storage: Any, caplog: Any) -> None:
    core = build()
    method: Any = core.methods["TwoStageFilter"]
    method.counts.copy_(torch.tensor([[9.0, 9, 0], [5, 5, 5], [5, 4, 0.01]]))
    method.images.fill_(50.0)
    assert method.removed_classes() == ["blue"]
    hook = HeadQuality(method)
    for step in (3, 7):
        cfg = SimpleNamespace(TEST=SimpleNamespace(EVAL_PERIOD=4))
        hook.trainer = SimpleNamespace(iter=step, max_iter=100, cfg=cfg)
        with caplog.at_level(logging.WARNING):
            hook.after_step()
    (record,) = caplog.records
    assert "removes all labels of 1 of 3 classes (blue)" in record.message
    assert "AUC" not in record.message and "\n" not in record.message
    method.mode = "mine"
    assert method.removed_classes() == []
    assert build().methods["TwoStageFilter"].removed_classes() == []  # type: ignore[operator]


@pytest.mark.parametrize(
    "auc, steps, said",
    [(0.7, 9, False), (float("nan"), 9, False), (0.55, 4, False), (0.55, 5, True)],
)
def test_a_head_near_chance_is_reported_once_it_filters(
    auc: float, steps: int, said: bool, caplog: Any
) -> None:
    core: Any = build()
    core.methods["TwoStageFilter"].warmup = 5
    core.student.ssod_heads["TwoStageFilter"].labeled_steps.fill_(steps)
    hook = HeadQuality(core.methods["TwoStageFilter"])
    hook._auc = auc
    cfg = SimpleNamespace(TEST=SimpleNamespace(EVAL_PERIOD=4))
    for step in (3, 7):
        hook.trainer = SimpleNamespace(iter=step, max_iter=100, cfg=cfg, core=core)
        with caplog.at_level(logging.WARNING):
            hook.after_step()
    messages = [record.message for record in caplog.records]
    assert len(messages) == said
    assert all("images is 0.55" in line and "\n" not in line for line in messages)


@pytest.mark.trains
def test_head_comes_along_with_a_shared_burn_in(squares: Path, tmp_path: Path) -> None:
    burn_in = method_cfg(squares, tmp_path / "burn_in", ("TwoStageFilter",), 2)
    burn_in.SSOD.BURN_IN_STEPS = 2
    train(burn_in)
    cfg = method_cfg(squares, tmp_path / "row", ("TwoStageFilter",), 3)
    cfg.SSOD.BURN_IN_STEPS = 2
    cfg.SSOD.BURN_IN_CHECKPOINT = str(tmp_path / "burn_in" / "model_final.pth")
    trainer = train(cfg)
    assert trainer.start_iter == 2
    head = trainer.core.student.ssod_heads["TwoStageFilter"]
    assert int(head.labeled_steps) == 3  # two of the burn-in's
    assert trainer.storage.history("loss_multi_label_unlabeled").latest() > 0  # warm at once
