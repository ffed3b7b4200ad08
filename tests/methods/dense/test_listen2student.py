"""Unbiased Teacher v2's side-wise regression: hand-computed losses, and the method in a step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from runs import DENSE
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods.listen2student import better_sides, box_sides, power_likelihood_loss
from ssod.structures import SSODBatch
from steps import cfg_with, core_of
from tiny import make_sample


def build(family: str = "RetinaNet", **keys: Any) -> TeacherStudent:
    own = [*DENSE[family], "SSOD.SCORE_THRESHOLD", 0.0, "SSOD.PSEUDO_SCORE_FLOOR", 0.005]
    cfg = cfg_with(("ScoreThreshold", "Listen2Student"), *own)
    cfg.SSOD.LISTEN2STUDENT.update({"MARGIN": 0.0, "CERTAINTY": 0.0, **keys})
    return core_of(cfg)


def step(core: TeacherStudent) -> dict[str, torch.Tensor]:
    with EventStorage():
        return core(SSODBatch([make_sample(1, True)], [make_sample(3, False)]))


def test_sides_count_from_the_anchors_centre() -> None:
    anchors = torch.tensor([[1.0, 1.0, 3.0, 5.0]])  # centre (2, 3), 2 wide, 4 high
    boxes = torch.tensor([[0.0, 0.0, 6.0, 8.0]])
    assert box_sides(boxes, anchors).tolist() == [[1.0, 0.75, 2.0, 1.25]]


def test_power_likelihood() -> None:
    sides, wanted = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.zeros(1, 4)
    s = torch.tensor([[1.0, 1.0, 0.5, 0.5]])
    # Only the last side is off: 1 / (2 * 0.25) = 2; log(0.5) twice.
    expected = 2 + 2 * math.log(0.5) + 2 * math.log(2 * math.pi)
    found = power_likelihood_loss(sides, s, wanted, torch.tensor([0.5]))
    assert found.item() == pytest.approx(0.5 * expected)
    assert power_likelihood_loss(sides[:0], s[:0], wanted[:0], torch.zeros(0)).sum() == 0


def test_the_student_listens_side_by_side() -> None:
    teacher = torch.tensor([[0.1, 0.2, 0.25, 0.1]])
    student = torch.tensor([[0.2, 0.25, 0.9, 0.05]])
    found = better_sides(teacher, student, margin=0.1, certainty=0.8)
    assert found.tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("family", sorted(DENSE))
def test_the_branch_learns_on_labelled_images(family: str) -> None:
    core = build(family)
    losses = step(core)
    sum(losses.values()).backward()
    branch = core.student.ssod_heads["Listen2Student"]
    assert branch.conv.bias.grad.abs().sum() > 0
    assert "ssod_heads.Listen2Student.conv.bias" in core.teacher.state_dict()
    assert all(p.grad is None for p in core.teacher.parameters())


@pytest.mark.parametrize("bias, expected", [(-5.0, True), (5.0, False)])
def test_only_a_better_teacher_teaches(bias: float, expected: bool) -> None:
    core = build(MARGIN=0.1, CERTAINTY=0.8)
    with torch.no_grad():
        core.teacher.ssod_heads["Listen2Student"].conv.bias.fill_(bias)
        for parameter in core.teacher.head.bbox_pred.parameters():
            parameter.add_(0.3)  # other boxes than the student's
    losses = step(core)
    assert (losses["loss_sides_unlabeled"] > 0) == expected
    assert (core.last_numbers["activity/Listen2Student"] > 0) == expected
    assert losses["loss_box_reg_unlabeled"] == 0  # whole boxes do not regress


def test_without_a_pseudo_label_nothing_regresses() -> None:
    core = build()
    core.pseudo_score_floor = 0.99
    losses = step(core)
    assert losses["loss_sides_unlabeled"] == 0
    sum(losses.values()).backward()
    with EventStorage():
        burn_in = core(SSODBatch([make_sample(1, True)], []))
    assert "loss_sides_unlabeled" not in burn_in and "loss_side_uncertainty" in burn_in


@pytest.mark.parametrize("key, value", [("MARGIN", 2.0), ("CERTAINTY", -0.1), ("REG_WEIGHT", -1.0)])
def test_wrong_keys_are_one_line(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"SSOD.LISTEN2STUDENT.{key} is") as error:
        build(**{key: value})
    assert "\n" not in str(error.value)
