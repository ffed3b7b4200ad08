"""EQL v2 by hand and against autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods.ci_ssod.equalization import SigmoidOutputLayers, equalization_weights
from steps import batch, cfg_with, core_of
from tiny import tiny_cfg


def build(roi_heads: str = "SigmoidROIHeads") -> TeacherStudent:
    own = ["MODEL.ROI_HEADS.NAME", roi_heads, "SSOD.SCORE_THRESHOLD", 0.0]
    return core_of(cfg_with(("ScoreThreshold", "EQLv2"), *own))


def test_weights_by_hand() -> None:
    positive, negative = torch.tensor([0.8, 3.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    up, down = equalization_weights(positive, negative, 12.0, 0.8, 4.0)
    rare = 1 / (1 + math.exp(12 * 0.8))
    assert down.tolist() == pytest.approx([0.5, 1.0, rare, 1.0, 1.0], abs=1e-6)
    assert up.tolist() == pytest.approx([3.0, 1.0, 5 - 4 * rare, 1.0, 1.0], abs=1e-5)


def test_accumulated_gradients_are_those_of_the_loss(storage: Any) -> None:
    predictor: Any = build().student.roi_heads.box_predictor
    assert isinstance(predictor, SigmoidOutputLayers)
    predictor.positive.copy_(torch.tensor([0.5, 2.0, 0.1]))
    predictor.negative.fill_(1.0)
    logits = torch.randn(20, 4, requires_grad=True)
    labels, weights = torch.randint(0, 4, (20,)), torch.rand(20)
    loss = (predictor.classification_loss(logits, labels) * weights).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    found = predictor.accumulate(logits.detach(), labels, weights)
    for label in range(3):
        own = labels == label
        assert float(found[0, label]) == pytest.approx(float(-gradient[own, label].sum()), rel=1e-4)
        assert float(found[1, label]) == pytest.approx(float(gradient[~own, label].sum()), rel=1e-4)


def test_no_rois_give_a_loss_that_back_propagates() -> None:
    predictor: Any = build().student.roi_heads.box_predictor
    logits = torch.zeros(0, 4, requires_grad=True)
    predictor.classification_loss(logits, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert logits.grad is not None


def test_another_head_is_refused() -> None:
    with pytest.raises(UserError, match="set MODEL.ROI_HEADS.NAME to SigmoidROIHeads"):
        build("StandardROIHeads")


def test_step_teacher_and_saved_weights(storage: Any) -> None:
    core = build()
    losses = core(batch(1, 1))
    assert torch.isfinite(sum(losses.values()))
    sums: Any = core.student.roi_heads.box_predictor
    assert sums.negative.sum() > 0
    teacher: Any = core.teacher.roi_heads.box_predictor
    assert isinstance(teacher, SigmoidOutputLayers)
    (probability,) = teacher.predict_probs((torch.tensor([[0.0, 0.0, 0.0, 0.0]]), None), [[1]])
    assert probability.tolist() == [[0.25, 0.25, 0.25, 0.5]]
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "SigmoidROIHeads"
    build_model(cfg).load_state_dict(core.student.state_dict())
