"""The distillation loss against numbers worked out by hand, and its empty cases."""

from __future__ import annotations

import math

import pytest
import torch

from ssod.methods.lsm import self_distillation_loss


def logits(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is the given distribution."""
    return torch.tensor(rows).log().requires_grad_()


def test_hand_computed_kl() -> None:
    # KL((1/2, 1/2) || (1/4, 3/4)) = ln 2 / 2 + ln(2/3) / 2, and the other way round it would be
    # another number.
    main, aux = logits([0.25, 0.75]), logits([0.5, 0.5])
    loss = self_distillation_loss(main, aux, torch.tensor([0.6]), 0.5, 0.7)
    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert loss.item() != pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-3)


def test_sum_over_the_open_interval_divided_by_all_rois() -> None:
    main = logits([0.25, 0.75], [0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [0.9, 0.1])
    aux = logits([0.5, 0.5], [0.1, 0.9], [0.1, 0.9], [0.5, 0.5], [0.1, 0.9])
    # Both ends are outside, and background carries 0.
    scores = torch.tensor([0.6, 0.5, 0.7, 0.55, 0.0], dtype=torch.float64)
    loss = self_distillation_loss(main, aux, scores, 0.5, 0.7)
    assert loss.item() == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 5)
    loss.backward()
    assert main.grad is not None and aux.grad is not None
    assert main.grad[1:3].abs().sum() == 0 and aux.grad[1:3].abs().sum() == 0


def test_micro_batches_of_equal_size_average_to_the_whole() -> None:
    torch.manual_seed(0)
    main, aux = torch.randn(2, 6, 4).unbind()
    scores = torch.tensor([0.6, 0.0, 0.65, 0.55, 0.6, 0.0])  # two in the first half, three there
    whole = self_distillation_loss(main, aux, scores, 0.5, 0.7)
    halves = [
        self_distillation_loss(main[part], aux[part], scores[part], 0.5, 0.7)
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert whole.item() == pytest.approx(sum(half.item() for half in halves) / 2)
    assert whole > 0


def test_a_roi_weighs_the_same_beside_few_and_many() -> None:
    main, aux = logits(*[[0.25, 0.75]] * 4), logits(*[[0.5, 0.5]] * 4)
    one = self_distillation_loss(main, aux, torch.tensor([0.6, 0, 0, 0]), 0.5, 0.7)
    three = self_distillation_loss(main, aux, torch.tensor([0.6, 0.6, 0.6, 0]), 0.5, 0.7)
    assert three.item() == pytest.approx(3 * one.item())


def test_both_sides_learn() -> None:
    main, aux = logits([0.25, 0.75]), logits([0.5, 0.5])
    self_distillation_loss(main, aux, torch.tensor([0.6]), 0.5, 0.7).backward()
    assert main.grad is not None and aux.grad is not None
    # d KL / d main = softmax(main) - softmax(aux); d KL / d aux_i = p_i (ln(p_i / q_i) - KL).
    assert main.grad.tolist()[0] == pytest.approx([-0.25, 0.25])
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    wanted = [0.5 * (math.log(2) - kl), 0.5 * (math.log(2 / 3) - kl)]
    assert aux.grad.tolist()[0] == pytest.approx(wanted)


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_in_the_interval_is_a_zero_that_backpropagates(count: int) -> None:
    main = torch.randn(count, 4, requires_grad=True)
    aux = torch.randn(count, 4, requires_grad=True)
    loss = self_distillation_loss(main, aux, torch.full((count,), 0.9), 0.5, 0.7)
    loss.backward()
    assert loss.item() == 0
    for side in (main, aux):
        assert side.grad is not None and torch.equal(side.grad, torch.zeros(count, 4))


def test_extreme_logits_stay_finite() -> None:
    main = torch.tensor([[80.0, -80.0]], requires_grad=True)
    aux = torch.tensor([[-80.0, 80.0]], requires_grad=True)
    loss = self_distillation_loss(main, aux, torch.tensor([0.6]), 0.5, 0.7)
    loss.backward()
    assert loss.item() == pytest.approx(160)
    assert main.grad is not None and torch.isfinite(main.grad).all()
    assert aux.grad is not None and torch.isfinite(aux.grad).all()
