"""GbR in the step, and the values that its keys and those of related methods refuse."""

from __future__ import annotations

from typing import Any, Optional

import pytest
import torch
from torch import Tensor

from ci_steps import CRS, GBR, GBT, build
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.ci_ssod import gradient_matrix, jacobi_target, solve_class_weights
from steps import batch


class Spy:
    """Keeps the outputs that a method's `update` gets."""

    def __init__(self, method: Any) -> None:
        self.outputs: Optional[Outputs] = None
        original = method.update

        def update(outputs: Outputs, pseudo: Any, context: Any) -> None:
            self.outputs = outputs
            original(outputs, pseudo, context)

        method.update = update


def test_reweighting_weighs_streams_and_measures_without_its_own_weights(storage: Any) -> None:
    core = build(
        ("ScoreThreshold", GBR), "SSOD.SCORE_THRESHOLD", 0.05, "SSOD.UNSUP_LOSS_WEIGHT", 3.0
    )
    gbr = core.methods[GBR]
    gbr.balance.logits.copy_(torch.tensor([0.5, -0.5, 0.2, 0.0]))
    weights = 4 * torch.softmax(torch.tensor([0.5, -0.5, 0.2, 0.0]), 0)
    spy = Spy(gbr)
    core(batch())
    outputs = spy.outputs
    assert outputs is not None and outputs.unlabeled is not None
    labeled, unlabeled = outputs.labeled, outputs.unlabeled
    assert torch.allclose(labeled.cls_weights, weights[labeled.labels].sqrt())
    assert torch.allclose(unlabeled.cls_weights, weights[unlabeled.labels])
    wanted = torch.zeros(4, 4)
    for view, factor in ((labeled, 1.0), (unlabeled, 3.0)):
        wanted += factor / len(view.labels) * gradient_matrix(view.predictions.logits, view.labels)
    assert torch.allclose(gbr.balance.gradients, (1 - 0.9995) * wanted, atol=1e-8)


def test_other_methods_roi_weights_stay_in_the_matrix(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR, "Toy"), "SSOD.GRADIENT_REWEIGHTING.EMA_DECAY", 0.0)
    spy = Spy(core.methods[GBR])
    core(batch())
    assert spy.outputs is not None and spy.outputs.unlabeled is not None
    view = spy.outputs.unlabeled
    assert (view.cls_weights[view.labels == 3] == 0.5).all()  # Toy halves background
    without = build(("ScoreThreshold", GBR), "SSOD.GRADIENT_REWEIGHTING.EMA_DECAY", 0.0)
    without(batch())
    found = core.methods[GBR].balance.gradients
    assert not torch.allclose(found, without.methods[GBR].balance.gradients, rtol=1e-3)


def test_weights_are_one_during_warm_up_and_move_after_it(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR), "SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 2)
    balance = core.methods[GBR].balance
    core(batch())
    assert balance.weights.tolist() == [1.0] * 4
    assert balance.gradients.any()
    core(batch())
    assert (balance.weights != 1).any()
    assert float(balance.weights.sum()) == pytest.approx(4.0)


def test_direct_solver_gives_the_clamped_solution(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR), "SSOD.GRADIENT_REWEIGHTING.SOLVER", "direct")
    core(batch())
    balance = core.methods[GBR].balance
    clamped = solve_class_weights(balance.gradients).clamp(1 / 3, 5.0)
    assert torch.allclose(balance.weights, (4 * clamped / clamped.sum()).clamp(1 / 3, 5.0))
    assert (balance.weights != 1).any()


def test_weights_stay_within_the_bounds_after_the_softmax() -> None:
    balance = build((GBT,)).methods[GBT].balance
    balance.logits.copy_(torch.tensor([-3.0, 0.0, 0.0, 3.0]))
    # 4 softmax(a) = 0.0091, 0.181, 0.181, 3.63
    assert balance.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 3.629], abs=1e-3)
    balance.low, balance.high = 0.5, 2.0
    assert balance.weights.tolist() == pytest.approx([0.5, 0.5, 0.5, 2.0])


def test_roi_weights_are_divided_by_their_running_mean(storage: Any) -> None:
    core = build(("ScoreThreshold", GBR), "SSOD.SCORE_THRESHOLD", 0.05)
    gbr = core.methods[GBR]
    # `a` stays where it is: K+1 times its softmax sums to K+1.
    gbr.balance.first_update, gbr.balance.decay = 99, 0.25
    gbr.balance.logits.copy_(torch.tensor([0.5, -0.5, 0.2, 0.0]))
    weights = 4 * torch.softmax(torch.tensor([0.5, -0.5, 0.2, 0.0]), 0)
    spy, means = Spy(gbr), torch.ones(2)
    for _ in range(3):
        core(batch())
        assert spy.outputs is not None and spy.outputs.unlabeled is not None
        views = (spy.outputs.labeled, spy.outputs.unlabeled)
        for index, view in enumerate(views):
            own = weights[view.labels].sqrt() if index == 0 else weights[view.labels]
            assert torch.allclose(view.cls_weights, own / means[index])
            means[index] = 0.25 * means[index] + 0.75 * own.mean()
        assert torch.allclose(gbr.mean_weights, means)
    core(batch(unlabeled=0))
    assert float(gbr.mean_weights[1]) == pytest.approx(float(means[1]))


def test_a_moves_once_an_optimiser_step_and_the_matrix_in_each_micro_batch(storage: Any) -> None:
    core = build(
        ("ScoreThreshold", GBR),
        *("SOLVER.GRADIENT_ACCUMULATION_STEPS", 2, "SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 2),
    )
    balance, moved = core.methods[GBR].balance, []
    for _ in range(6):
        before, matrix = balance.logits.clone(), balance.gradients.clone()
        core(batch())
        moved.append(bool((balance.logits != before).any()))
        assert (balance.gradients != matrix).any()
    assert moved == [False, False, False, True, False, True]
    target = jacobi_target(balance.gradients, torch.ones(4), 1 / 3, 5.0)
    assert torch.isfinite(target).all() and balance.velocity.any()


def test_burn_in_and_a_stream_without_images(storage: Any) -> None:
    core = build((GBR, GBT))
    losses = core(batch(unlabeled=0))
    assert torch.isfinite(sum(losses.values()))
    assert core.methods[GBR].balance.gradients.any()
    gbt = core.methods[GBT]
    assert not gbt.score_means.any()


def test_weights_are_a_function_of_the_matrix_alone() -> None:
    """A balanced matrix leaves the weights where they are."""
    balanced: Tensor = torch.ones(4, 4) - 4 * torch.eye(4)
    assert torch.allclose(jacobi_target(balanced, torch.ones(4), 1 / 3, 5.0), torch.ones(4))


@pytest.mark.parametrize(
    "keys, words",
    [
        (("SSOD.GRADIENT_REWEIGHTING.SOLVER", "lu"), "SOLVER"),
        (("SSOD.GRADIENT_REWEIGHTING.BOUNDS", (2.0, 5.0)), "BOUNDS"),
        (("SSOD.GRADIENT_REWEIGHTING.BOUNDS", (0.3, 5.0, 6.0)), "use .low, high."),
        (("SSOD.GRADIENT_REWEIGHTING.EMA_DECAY", 1.0), "EMA_DECAY"),
        (("SSOD.GRADIENT_REWEIGHTING.BETA", -1.0), "BETA"),
        (("SSOD.GRADIENT_THRESHOLDING.LOW", 0.95), "LOW"),
        (
            (
                "SSOD.GRADIENT_THRESHOLDING.USE_SCORE",
                False,
                "SSOD.GRADIENT_THRESHOLDING.USE_GRADIENT",
                False,
            ),
            "ScoreThreshold",
        ),
        (("SSOD.GRADIENT_REWEIGHTING.LR", 0.0), "LR is 0.0"),
        (("SSOD.GRADIENT_REWEIGHTING.LR", 0.5), "at most 0.4"),  # 3 classes
        (("SSOD.GRADIENT_REWEIGHTING.MOMENTUM", 1.0), "MOMENTUM is 1.0"),
        (("SSOD.GRADIENT_REWEIGHTING.ALIGN_WEIGHT", 0.0), "ALIGN_WEIGHT is 0.0"),
        (("SSOD.GRADIENT_THRESHOLDING.WARMUP_STEPS", -1), "THRESHOLDING.WARMUP_STEPS is -1"),
        (("SSOD.GRADIENT_THRESHOLDING.RPN_SCORE_THRESHOLD", 2.0), "RPN_SCORE_THRESHOLD is 2"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.WARMUP_STEPS", -1), "SAMPLING.WARMUP_STEPS is -1"),
        (("SSOD.GRADIENT_THRESHOLDING.EMA_DECAY", 1.0), "THRESHOLDING.EMA_DECAY"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.LABELED_REPEAT_THRESHOLD", -0.1), "LABELED_REPEAT"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.GENERATIONS", 0), "GENERATIONS"),
        (("SSOD.CLASS_REBALANCING_SAMPLING.GAMMA", -0.5), "GAMMA"),
    ],
)
def test_bad_keys_are_one_line(keys: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        build((GBR, GBT, CRS), *keys)
    assert "\n" not in str(error.value)


def test_bad_keys_of_the_comparators_are_one_line() -> None:
    for method, key, value in (
        ("LabelMatchThresholds", "SSOD.LABEL_MATCH.INITIAL_THRESHOLD", 1.5),
        ("LabelMatchThresholds", "SSOD.LABEL_MATCH.EMA_DECAY", 1.0),
        ("LabelMatchThresholds", "SSOD.LABEL_MATCH.WARMUP_STEPS", -1),
        ("RepeatFactorSampling", "SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD", -0.1),
    ):
        with pytest.raises(UserError, match=f"{key} is {value}: use") as error:
            build((method,), key, value)
        assert "\n" not in str(error.value)
