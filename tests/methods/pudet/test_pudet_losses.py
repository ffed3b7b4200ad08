"""PUDet's pure functions: numbers by hand, brute force, and empty inputs."""

from __future__ import annotations

import math
from typing import List

import pytest
import torch
from torch import Tensor

from ssod.errors import UserError
from ssod.methods.pudet import (
    bounded_box_distillation,
    bounded_classification_distillation,
    imitation_mask,
    nnpu_ascent,
    nnpu_risk,
)
from ssod.methods.pudet.hint import location_mask, masked_squared_error


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_risk_by_hand() -> None:
    positive = torch.tensor([logit(0.9), logit(0.5)])
    unlabelled = torch.tensor([logit(0.8), logit(0.2), logit(0.2)])
    # R_p^+ = (0.1 + 0.5) / 2, R_p^- = (0.9 + 0.5) / 2, R_u^- = (0.8 + 0.2 + 0.2) / 3
    assert nnpu_risk(positive, unlabelled, 0.3).item() == pytest.approx(
        0.3 * 0.3 + (0.4 - 0.3 * 0.7), abs=1e-6
    )


def test_negative_part_is_clamped() -> None:
    positive = torch.tensor([logit(0.9)], requires_grad=True)
    unlabelled = torch.tensor([logit(0.1)], requires_grad=True)
    risk = nnpu_risk(positive, unlabelled, 0.5)  # 0.1 - 0.5 * 0.9 < 0
    assert risk.item() == pytest.approx(0.5 * 0.1, abs=1e-6)
    risk.backward()
    assert unlabelled.grad is not None and unlabelled.grad.item() == 0
    # d/dz pi sigma(-z) = -pi sigma(z) sigma(-z)
    assert positive.grad is not None
    assert positive.grad.item() == pytest.approx(-0.5 * 0.9 * 0.1, abs=1e-6)


def test_logistic_loss_by_hand() -> None:
    risk = nnpu_risk(torch.tensor([2.0]), torch.tensor([-1.0]), 0.1, "logistic")
    expected = 0.1 * math.log1p(math.exp(-2)) + (
        math.log1p(math.exp(-1)) - 0.1 * math.log1p(math.exp(2))
    )
    assert risk.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "beta, gamma, expected", [(0.0, 1.0, 0.35), (0.0, 0.5, 0.175), (0.4, 1.0, 0.05 - 0.35)]
)
def test_gradient_ascent(beta: float, gamma: float, expected: float) -> None:
    """N = 0.1 - 0.5 * 0.9 = -0.35: below -beta the step minimises -gamma N, else the unclamped
    risk.
    """
    positive = torch.tensor([logit(0.9)])
    unlabelled = torch.tensor([logit(0.1)], requires_grad=True)
    value = nnpu_ascent(positive, unlabelled, 0.5, beta, gamma)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    value.backward()
    slope = 0.1 * 0.9  # dN / dz_u
    wanted = -gamma * slope if beta < 0.35 else slope
    assert unlabelled.grad is not None
    assert unlabelled.grad.item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("risk", [nnpu_risk, nnpu_ascent])
@pytest.mark.parametrize("positives, unlabelled", [(0, 0), (0, 3), (3, 0)])
def test_risk_of_nothing(risk, positives: int, unlabelled: int) -> None:
    p = torch.zeros(positives, requires_grad=True)
    u = torch.zeros(unlabelled, requires_grad=True)
    value = risk(p, u, 0.25)
    # A class without examples counts 0; N = 0 - 0.25 * 0.5 < 0 where only positives are there.
    if risk is nnpu_ascent and positives and not unlabelled:
        assert value.item() == pytest.approx(0.125)
    else:
        assert value.item() == pytest.approx(0.5 * bool(unlabelled) + 0.125 * bool(positives))
    value.backward()
    assert p.grad is not None and u.grad is not None
    assert torch.isfinite(p.grad).all() and torch.isfinite(u.grad).all()


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, float("nan")])
def test_priors_that_are_none(prior: float) -> None:
    with pytest.raises(UserError, match="prior"):
        nnpu_risk(torch.zeros(1), torch.zeros(1), prior)


def test_unknown_pu_loss() -> None:
    with pytest.raises(UserError, match="hinge"):
        nnpu_risk(torch.zeros(1), torch.zeros(1), 0.5, "hinge")


def iou(a: List[float], b: List[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_imitation_mask_brute_force(ratio: float) -> None:
    generator = torch.Generator().manual_seed(1)
    anchors, truth = random_boxes(60, generator), random_boxes(4, generator)
    expected = torch.zeros(60, dtype=torch.bool)
    for box in truth.tolist():
        overlap = [iou(anchor, box) for anchor in anchors.tolist()]
        expected |= torch.tensor([o > ratio * max(overlap) for o in overlap])
    found = imitation_mask(anchors, truth, ratio)
    assert found.dtype == torch.bool and torch.equal(found, expected)
    assert 0 < found.sum() < 60


def test_imitation_mask_without_anything_to_imitate() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])
    assert not imitation_mask(anchors, torch.zeros(0, 4)).any()
    # A ground truth that touches no anchor of the level: its best IoU is 0, and nothing exceeds it.
    assert not imitation_mask(anchors, torch.tensor([[50.0, 50, 60, 60]])).any()
    assert imitation_mask(torch.zeros(0, 4), torch.tensor([[0.0, 0, 8, 8]])).shape == (0,)


def test_location_is_in_if_any_of_its_anchors_is() -> None:
    # Two locations of two anchors each; the second anchor of the second location fits.
    anchors = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [10, 0, 14, 4], [10, 0, 18, 8]])
    mask = location_mask(anchors, torch.tensor([[10.0, 0, 18, 8]]), (1, 2), 0.5)
    assert mask.tolist() == [[False, True]]


def test_masked_squared_error_by_hand() -> None:
    student = torch.zeros(1, 2, 1, 2, requires_grad=True)
    teacher = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    error = masked_squared_error(student, teacher, torch.tensor([[[True, False]]]))
    assert error.item() == 1 + 9
    error.backward()
    assert student.grad is not None
    assert student.grad.flatten().tolist() == [-2.0, 0.0, -6.0, 0.0]


def test_classification_by_hand() -> None:
    """One of two proposals is classified rightly; T = 2, two classes and background."""
    student = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[2 * math.log(2), 0.0, 0.0], [0.0, 3.0, 0.0]])
    labels = torch.tensor([0, 2])
    # At T = 2 the teacher says 1/2, 1/4, 1/4 and the student 1/3 each.
    kl = 0.5 * math.log(1.5) + 2 * 0.25 * math.log(0.75)
    loss = bounded_classification_distillation(student, teacher, labels, 2.0)
    assert loss.item() == pytest.approx(4 * kl, abs=1e-6)
    loss.backward()
    assert student.grad is not None and not student.grad[1].any()
    # d/dz_s of T^2 KL is T (p_s - p_t)
    assert student.grad[0].tolist() == pytest.approx([2 * (1 / 3 - 1 / 2), 1 / 6, 1 / 6], abs=1e-6)


def test_background_counts_and_the_mean_is_over_correct_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(20, 4, generator=generator)
    teacher = torch.randn(20, 4, generator=generator)
    labels = torch.randint(0, 4, (20,), generator=generator)
    total, correct = 0.0, 0
    for s, t, label in zip(student, teacher, labels):
        if t.argmax() == label:
            p, q = (t / 3).softmax(0), (s / 3).softmax(0)
            total += 9 * float((p * (p / q).log()).sum())
            correct += 1
    assert correct > 2 and (labels[teacher.argmax(1) == labels] == 3).any()
    found = bounded_classification_distillation(student, teacher, labels, 3.0)
    assert found.item() == pytest.approx(total / correct, abs=1e-5)


@pytest.mark.parametrize("rows", [0, 2])
def test_classification_without_correct_rows(rows: int) -> None:
    student = torch.zeros(rows, 3, requires_grad=True)
    teacher = torch.tensor([[9.0, 0, 0]] * rows).reshape(rows, 3).requires_grad_()
    loss = bounded_classification_distillation(student, teacher, torch.ones(rows).long(), 2.0)
    assert loss.item() == 0
    loss.backward()
    assert student.grad is not None and not student.grad.any() and teacher.grad is None


def test_box_by_hand() -> None:
    student = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0, 0, 0], [5, 5, 5, 5]])
    truth = torch.tensor([[0.0, 2, 1, 0], [1, 1, 0, 3]])
    loss = bounded_box_distillation(student, teacher, truth)  # min(1, 3) and min(16, 3)
    assert loss.item() == pytest.approx((1 + 3) / 2)
    loss.backward()
    assert student.grad is not None
    assert student.grad.tolist() == [[-0.5, 0, 0, 0], [0, 0, 0.5, -0.5]]


def test_box_of_nothing() -> None:
    student = torch.zeros(0, 4, requires_grad=True)
    loss = bounded_box_distillation(student, torch.zeros(0, 4), torch.zeros(0, 4))
    assert loss.item() == 0
    loss.backward()
    assert student.grad is not None and student.grad.shape == (0, 4)
