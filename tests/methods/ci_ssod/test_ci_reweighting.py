"""GbR inside the step, and what its and its relatives' keys refuse."""

from __future__ import annotations

from typing import Any, Optional

import pytest
import torch
from torch import Tensor

from ci_steps import CRS, GBR, GBT, batch, build
from ssod.detectors.rcnn.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.ci_ssod import (
    gradient_matrix,
)


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
    assert float(balance.weights.sum()) == pytest.approx(4.0, rel=1e-5)
    ratio = balance.weights.max() / balance.weights.min()
    assert 1.0 < float(ratio) <= 15.0 + 1e-3  # bounds 1/3 and 5


def test_burn_in_and_a_stream_without_images(storage: Any) -> None:
    core = build((GBR, GBT))
    losses = core(batch(unlabeled=0))
    assert torch.isfinite(sum(losses.values()))
    assert core.methods[GBR].balance.gradients.any()
    gbt = core.methods[GBT]
    assert not gbt.score_means.any()


def test_weights_are_a_function_of_the_matrix_alone() -> None:
    """A balanced matrix leaves the weights where they are."""
    from ssod.methods.ci_ssod import jacobi_target

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
        (("SSOD.GRADIENT_REWEIGHTING.LR", 2.5), "at most 2.0"),  # 3 classes
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
        ("RepeatFactorSampling", "SSOD.REPEAT_FACTOR_SAMPLING.THRESHOLD", -0.1),
    ):
        with pytest.raises(UserError, match=f"{key} is {value}: use") as error:
            build((method,), key, value)
        assert "\n" not in str(error.value)
