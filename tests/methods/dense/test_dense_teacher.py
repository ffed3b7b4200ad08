"""Dense Teacher: hand-computed losses, and the method in a RetinaNet's step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from runs import DENSE
from ssod.detectors.dense.pairing import foreign_labels, teacher_rows
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.methods.dense_teacher import learning_region, quality_focal_loss
from ssod.structures import PseudoLabels
from steps import batch, cfg_with, core_of
from tiny import tiny_cfg


def build(family: str = "FCOS", **keys: Any) -> TeacherStudent:
    cfg = cfg_with(("DenseTeacher",), *DENSE[family], "SSOD.UNSUP_LOSS_WEIGHT", 1.0)
    cfg.SSOD.DENSE_TEACHER.update({"RAMP_STEPS": 0, **keys})
    return core_of(cfg)


def test_quality_focal_loss() -> None:
    logits = torch.tensor([[0.0, 0.0, math.log(3.0)]])  # p = 0.5, 0.5, 0.75
    found = quality_focal_loss(logits, torch.tensor([[0.0, 0.5, 1.0]]), 2.0)
    expected = [0.25 * math.log(2), 0.0, 0.25**2 * math.log(4 / 3)]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-7)


def test_learning_region() -> None:
    scores = torch.zeros(300, 3)
    scores[7, 1], scores[250, 2], scores[9, 0] = 0.9, 0.4, 0.2
    assert learning_region(scores, 0.01).nonzero().flatten().tolist() == [7, 9, 250]
    assert learning_region(scores, 1e-9).nonzero().flatten().tolist() == [7]  # at least one
    assert learning_region(scores[:0], 0.01).shape == (0,)


@pytest.mark.parametrize("family", sorted(DENSE))
def test_losses_follow_from_the_teachers_probabilities(family: str) -> None:
    core = build(family, TOP_FRACTION=0.05)
    data = batch(1)
    with EventStorage():
        context = core.context(data)
        pseudo = core.pseudo_labels(context)
        outputs = core.run_student(core.student_views(data, pseudo, context))
        method = core.methods["DenseTeacher"]
        outputs = method.weigh(outputs, pseudo, context)
        losses = method.losses(outputs, pseudo, context)
    assert context.teacher_outputs is not None
    theirs = context.teacher_outputs.predictions.flat("logits").sigmoid()
    count = int(0.05 * len(theirs))
    order = theirs.amax(dim=1).argsort(descending=True)[:count]
    targets = torch.zeros_like(theirs)
    targets[order] = theirs[order]
    p = outputs.unlabeled.rows.logits.sigmoid()
    entropy = -(targets * p.log() + (1 - targets) * (1 - p).log())
    expected = ((targets - p) ** 2 * entropy).sum() / theirs[order].amax(dim=1).sum()
    assert losses["loss_dense_cls"].item() == pytest.approx(expected.item(), rel=1e-3)
    assert ("loss_dense_quality" in losses) == (family == "FCOS")
    assert method.activity(outputs, pseudo, context) > 0


def test_boxes_do_not_train_even_if_there_are_some() -> None:
    core = build()
    label = core.label

    def sure(samples: Any) -> Any:
        found = label(samples)
        for row in found.detections:
            row.scores[:1] = 0.9
        return found

    core.label = sure  # type: ignore[method-assign]
    core.pseudo_score_floor = 0.0
    with EventStorage():
        losses = core(batch(1))
    assert core.last_pseudo is not None
    assert all(row.selected.sum() == 1 for row in core.last_pseudo.instances)  # shown
    own = {name: loss for name, loss in losses.items() if name.endswith("_unlabeled")}
    assert len(own) == 3 and not any(own.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in core.student.parameters())
    assert all(p.grad is None for p in core.teacher.parameters())


def test_it_needs_no_detection_at_all() -> None:
    core = build()
    core.pseudo_score_floor = 0.99
    with EventStorage():
        losses = core(batch(1))
        burn_in = core(batch(unlabeled=0))
    assert losses["loss_dense_cls"] > 0 and torch.isfinite(losses["loss_dense_reg"])
    assert not any("dense" in name for name in burn_in)


def test_losses_grow_over_the_ramp() -> None:
    method = build(RAMP_STEPS=4).methods["DenseTeacher"]
    method.first_step = 10
    assert [method._ramp(step) for step in (9, 10, 12, 13, 50)] == [0.0, 0.25, 0.75, 1.0, 1.0]


def test_locations_are_the_same_place_in_both_passes() -> None:
    """The student's pass has a larger labelled image, so its maps may be padded more."""
    core = build("RetinaNet")
    data = batch(size=(72, 96))
    with EventStorage():
        context = core.context(data)
        pseudo = core.pseudo_labels(context)
        outputs = core.run_student(core.student_views(data, pseudo, context))
    assert context.teacher_outputs is not None
    teacher, view = context.teacher_outputs.predictions, outputs.unlabeled
    rows, known = teacher_rows(view, teacher)
    anchors = [
        torch.cat([g.anchors.repeat(len(g.indices), 1) for g in one.groups])
        for one in (view.predictions, teacher)
    ]
    assert known.any() and len(anchors[0]) >= len(anchors[1])
    assert torch.equal(anchors[0][known], anchors[1][rows[known]])
    assert len(rows[known].unique()) == len(anchors[1])


def test_pasted_objects_are_trained_as_boxes() -> None:
    core = build("RetinaNet")
    data = batch(unlabeled=1)
    with EventStorage():
        context = core.context(data)
        pseudo = core.pseudo_labels(context)
        found = Instances((64, 64), scores=torch.ones(1), pred_classes=torch.zeros(1).long())
        found.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
        pasted = PseudoLabels.from_detections([found])
        views = core.student_views(data, pseudo, context)
        unlabeled = replace(views.unlabeled, pseudo=pasted, targets=pasted.to_targets())
        outputs = core.run_student(replace(views, unlabeled=unlabeled))
        foreign = foreign_labels(outputs.unlabeled, pseudo)
        assert foreign.sum() == (outputs.unlabeled.rows.label_index >= 0).sum() > 0
        assert not foreign_labels(outputs.unlabeled, pasted).any()
        weighed = core.methods["DenseTeacher"].weigh(outputs, pseudo, context)
        assert torch.equal(weighed.unlabeled.rows.valid, foreign)
        assert core.detector.losses(weighed.unlabeled)["loss_cls"] > 0


@pytest.mark.parametrize(
    "key, value",
    [("TOP_FRACTION", 0.0), ("TOP_FRACTION", 1.5), ("GAMMA", -1.0), ("RAMP_STEPS", -2)],
)
def test_wrong_keys_are_one_line(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"SSOD.DENSE_TEACHER.{key} is") as error:
        build(**{key: value})
    assert "\n" not in str(error.value)


def test_a_faster_rcnn_is_refused_with_the_families_that_serve() -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("DenseTeacher",)
    with pytest.raises(UserError, match="dense predictions.* Faster R-CNN .*FCOS and RetinaNet"):
        TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))
