"""The C2AM loss by hand, and its classifier in the step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods.c2am import CosineOutputLayers, angular_margins, margin_loss
from steps import batch, cfg_with, core_of
from tiny import tiny_cfg


def build(*keys: Any, roi_heads: str = "CosineROIHeads") -> TeacherStudent:
    own = ["MODEL.ROI_HEADS.NAME", roi_heads, "SSOD.SCORE_THRESHOLD", 0.0]
    return core_of(cfg_with(("ScoreThreshold", "C2AM"), *own, *keys))


def test_margins_by_hand() -> None:
    found = angular_margins(torch.tensor([1.0, math.e, math.e**2]), math.pi / 2)
    # Label 0 is shorter than both; label 2 is the longest.
    assert found.flatten().tolist() == pytest.approx([0, 0.5, 1.0, 0, 0, 0.5, 0, 0, 0])


def test_loss_by_hand() -> None:
    cosines = torch.tensor([[0.5, 0.2, -0.1]])
    margins = torch.tensor([[0.0, 0.3, 0.0], [0.0] * 3, [0.0] * 3])
    angle = math.acos(0.5)
    wanted = math.log(
        1 + math.exp(10 * (0.2 - math.cos(angle + 0.3))) + math.exp(10 * (-0.1 - math.cos(angle)))
    )
    (found,) = margin_loss(cosines, torch.tensor([0]), margins, 10.0).tolist()
    assert found == pytest.approx(wanted, rel=1e-5)


def test_without_margins_it_is_cross_entropy() -> None:
    cosines, labels = torch.rand(20, 5) * 2 - 1, torch.randint(0, 5, (20,))
    found = margin_loss(cosines, labels, torch.zeros(5, 5), 30.0)
    assert torch.allclose(found, F.cross_entropy(30 * cosines, labels, reduction="none"), atol=1e-5)


def test_gradients_are_finite_where_the_angle_is_0_and_without_rows() -> None:
    cosines = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]], requires_grad=True)
    margins = torch.full((3, 3), 0.4)
    margin_loss(cosines, torch.tensor([0, 0]), margins, 30.0).sum().backward()
    assert cosines.grad is not None and cosines.grad.isfinite().all()
    empty = torch.zeros(0, 3, requires_grad=True)
    margin_loss(empty, torch.zeros(0, dtype=torch.int64), margins, 30.0).sum().backward()
    assert empty.grad is not None


def test_logits_are_cosines_whatever_the_lengths(storage: Any) -> None:
    core = build("SSOD.C2AM.SCALE", 20.0, "SSOD.C2AM.ALPHA", 0.25)
    predictor: Any = core.student.roi_heads.box_predictor
    assert isinstance(predictor, CosineOutputLayers)
    features = torch.randn(7, predictor.cls_score.weight.shape[1])
    logits = predictor(features)[0]
    assert torch.allclose(logits, predictor(3 * features)[0], atol=1e-5)
    wanted = 20 * F.cosine_similarity(features[:, None], predictor.cls_score.weight[None], dim=2)
    assert torch.allclose(logits, wanted, atol=1e-5)
    with torch.no_grad():
        predictor.cls_score.weight[0] *= 10
    labels = torch.ones(7, dtype=torch.int64)
    loss = predictor.classification_loss(logits, labels)
    assert (loss > F.cross_entropy(logits, labels, reduction="none")).all()
    losses = core(batch(1, 1))
    sum(losses.values()).backward()
    assert predictor.cls_score.weight.grad.abs().sum() > 0
    # The weights bring the scale along.
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "CosineROIHeads"
    model = build_model(cfg)
    model.load_state_dict(core.student.state_dict())
    assert float(model.roi_heads.box_predictor.cls_score.scale) == 20.0


def test_wrong_keys_and_heads_are_one_line() -> None:
    with pytest.raises(UserError, match="set MODEL.ROI_HEADS.NAME to CosineROIHeads"):
        build(roi_heads="StandardROIHeads")
    with pytest.raises(UserError, match="SSOD.C2AM.SCALE is 0.0: use"):
        build("SSOD.C2AM.SCALE", 0.0)
    with pytest.raises(UserError, match="SSOD.C2AM.ALPHA is -1.0: use"):
        build("SSOD.C2AM.ALPHA", -1.0)
