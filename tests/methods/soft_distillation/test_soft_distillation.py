"""Soft targets against numbers worked out by hand, and which RoIs and anchors they are for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Tuple

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from ssod.detectors.outputs import Outputs
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import StepContext
from ssod.methods.soft_distillation import covered_by, sharpened, soft_cross_entropy
from ssod.structures import PseudoLabels
from steps import batch, cfg_with, core_of, spread_predictions


def test_sharpened_distribution() -> None:
    logits = torch.tensor([[math.log(4.0), math.log(2.0), math.log(2.0)]])
    assert sharpened(logits, 1.0).tolist()[0] == pytest.approx([0.5, 0.25, 0.25])
    # Squares: 16, 4, 4.
    assert sharpened(logits, 0.5).tolist()[0] == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_soft_cross_entropy() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    loss = soft_cross_entropy(logits, targets)
    # Student: 3/4 and 1/4.
    wanted = [-0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4), math.log(2.0)]
    assert loss.tolist() == pytest.approx(wanted)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.25, -0.25])  # student - target
    assert soft_cross_entropy(logits[:0], targets[:0]).shape == (0,)


def test_boxes_on_pasted_objects() -> None:
    pasted = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],
            [1.0, 1, 3, 3],  # a part of it: covered altogether
            [0.0, 0, 10, 20],  # IoU and share 0.5
            [0.0, 0, 30, 30],  # contains it: IoU 1/9
            [9.0, 0, 19, 10],  # share 0.1
        ]
    )
    assert covered_by(boxes, pasted).tolist() == [True, True, True, False, False]
    assert covered_by(boxes, pasted[:0]).tolist() == [False] * 5
    assert covered_by(boxes[:0], pasted).shape == (0,)


def build(*keys: Any) -> TeacherStudent:
    methods = ("ScoreThreshold", "SoftDistillation")
    core = core_of(cfg_with(methods, "SSOD.SCORE_THRESHOLD", 0.15, *keys), seed=1)
    spread_predictions(core, classes=0.5, boxes=0.1)
    return core


def with_pasted(pseudo: PseudoLabels) -> PseudoLabels:
    """The labels after a method has pasted a box over the upper half, with other columns 0."""
    rows = []
    for old in pseudo.instances:
        box = Boxes(torch.tensor([[0.0, 0, 64, 32]]))
        row = Instances(old.image_size)
        for name, values in old.get_fields().items():
            more = torch.zeros(1).to(values.tensor if name == "gt_boxes" else values)
            joined = Boxes.cat([values, box]) if name == "gt_boxes" else torch.cat([values, more])
            row.set(name, joined)
        row.selected[-1] = True
        row.roi_cls_weight[-1] = row.rpn_cls_weight[-1] = 1.0
        rows.append(row)
    return PseudoLabels(rows)


def step(
    core: TeacherStudent, pasted: bool = False, count: int = 2
) -> Tuple[Outputs, Any, StepContext]:
    context = core.context(batch(1, count))
    pseudo = core.pseudo_labels(context) if count else None
    views = core.student_views(context.batch, pseudo, context)
    if pasted and views.unlabeled and views.unlabeled.pseudo:
        labels = with_pasted(views.unlabeled.pseudo)
        changed = replace(views.unlabeled, pseudo=labels, targets=labels.to_targets())
        views = replace(views, unlabeled=changed)
    method: Any = core.methods["SoftDistillation"]
    outputs = method.weigh(core.run_student(views), pseudo, context)
    return outputs, method.losses(outputs, pseudo, context), context


def test_every_roi_learns_the_teachers_distribution(storage: Any) -> None:
    core = build()
    outputs, losses, context = step(core)
    view = outputs.unlabeled
    assert view and (view.cls_weights == 0).all()
    assert all((sampled.cls_weights == 0).all() for sampled in view.anchors)
    teacher = context.shared["teacher_judgement"].predictions.logits
    cross = F.cross_entropy(view.predictions.logits, teacher.softmax(dim=1))
    assert float(losses["loss_cls_distilled"].detach()) == pytest.approx(
        4.0 * float(cross.detach()), rel=1e-4
    )
    assert set(losses) == {"loss_cls_distilled", "loss_rpn_cls_distilled"}
    assert not teacher.requires_grad
    sum(losses.values()).backward()
    assert core.student.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in core.teacher.parameters())


def test_a_student_that_agrees_has_no_gradient(storage: Any) -> None:
    core = build()
    outputs, _, context = step(core)
    view, method = outputs.unlabeled, core.methods["SoftDistillation"]
    assert view
    teacher = context.shared["teacher_judgement"].predictions
    same = replace(view.predictions, logits=teacher.logits.clone().requires_grad_())
    judged = [a.logits for a in view.anchors]
    agreed = replace(outputs, unlabeled=replace(view, predictions=same))
    loss = method.losses(agreed, None, context)["loss_cls_distilled"]  # type: ignore[operator]
    loss.backward()
    assert same.logits.grad is not None and same.logits.grad.abs().max() < 1e-6
    assert len(judged) == 2


def test_pasted_objects_keep_hard_labels(storage: Any) -> None:
    outputs, losses, _ = step(build(), pasted=True)
    view = outputs.unlabeled
    assert view
    for index, roi in enumerate(view.rois):
        hard = covered_by(roi.proposal_boxes.tensor, torch.tensor([[0.0, 0, 64, 32]]))
        weights = view.cls_weights[view.image_index == index]
        assert hard.any() and torch.equal(weights > 0, hard)
        # RoIs that were matched with the pasted box are among them.
        own = roi.gt_boxes.tensor.eq(torch.tensor([0.0, 0, 64, 32])).all(dim=1)
        assert (hard | ~(own & (roi.gt_classes < 3))).all()
    assert all((0 < (a.cls_weights > 0).float().mean() < 1) for a in view.anchors)
    assert losses["loss_cls_distilled"] > 0


def test_boxes_follow_the_teacher_where_it_is_sure(storage: Any) -> None:
    outputs, losses, context = step(build("SSOD.SOFT_DISTILLATION.BOX_LOSS_WEIGHT", 0.5))
    view = outputs.unlabeled
    assert view
    judged = context.shared["teacher_judgement"]
    total = 0.0
    for row in range(len(view.labels)):
        best = int(judged.probabilities[row, :3].argmax())
        part = slice(4 * best, 4 * best + 4)
        ours, theirs = view.predictions.deltas[row, part], judged.predictions.deltas[row, part]
        sure = 1 - float(judged.probabilities[row, 3])
        total += sure * float(F.smooth_l1_loss(ours, theirs, reduction="sum").detach())
    wanted = 4.0 * 0.5 * total / len(view.labels)
    assert float(losses["loss_box_reg_distilled"].detach()) == pytest.approx(wanted, rel=1e-4)


def test_no_unlabeled_images(storage: Any) -> None:
    _, losses, _ = step(build(), count=0)
    assert losses == {}


@pytest.mark.parametrize(
    "key, value", [("TEMPERATURE", 0.0), ("LOSS_WEIGHT", -0.5), ("BOX_LOSS_WEIGHT", -1.0)]
)
def test_wrong_values_are_one_line(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"SSOD.SOFT_DISTILLATION.{key} is {value}"):
        build(f"SSOD.SOFT_DISTILLATION.{key}", value)
