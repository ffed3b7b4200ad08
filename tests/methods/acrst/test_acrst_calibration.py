"""AUC and calibration of image-level activations, and how the focal loss bends them."""

from __future__ import annotations

import math

import pytest
import torch

from ssod.methods.acrst.two_stage.calibration import (
    calibration_error,
    focal_posterior,
    roc_auc,
)


def test_auc_by_hand() -> None:
    scores = torch.tensor([[0.9], [0.4], [0.6], [0.1]])
    present = torch.tensor([[True], [True], [False], [False]])
    # Pairs (0.9, 0.6), (0.9, 0.1), (0.4, 0.1) are right, (0.4, 0.6) is wrong.
    assert roc_auc(scores, present).tolist() == [0.75]
    assert roc_auc(-scores, present).tolist() == [0.25]


def test_auc_of_ties_constants_and_nothing() -> None:
    scores = torch.tensor([[0.5, 0.5], [0.5, 0.1], [0.5, 0.9]])
    present = torch.tensor([[True, True], [False, True], [False, True]])
    found = roc_auc(scores, present).tolist()
    assert found[0] == 0.5 and math.isnan(found[1])  # a constant; a class without counterexample
    assert all(math.isnan(v) for v in roc_auc(torch.zeros(0, 2), torch.zeros(0, 2).bool()).tolist())


@pytest.mark.parametrize("gamma, wanted", [(2.0, 0.0674), (1.0, 0.2020)])
def test_posterior_at_the_filters_threshold(gamma: float, wanted: float) -> None:
    found = focal_posterior(torch.tensor(0.2, dtype=torch.float64), gamma, 0.25)
    assert float(found) == pytest.approx(wanted, abs=1e-4)


def test_posterior_is_where_the_loss_is_lowest() -> None:
    grid = torch.linspace(0.001, 0.999, 9981, dtype=torch.float64)
    for gamma, alpha in ((0.0, 0.5), (1.0, 0.25), (2.0, 0.25), (1.5, 0.6)):
        for posterior in (0.05, 0.3, 0.8):
            loss = -posterior * alpha * (1 - grid) ** gamma * grid.log()
            loss -= (1 - posterior) * (1 - alpha) * grid**gamma * (1 - grid).log()
            best = grid[loss.argmin()]
            assert float(focal_posterior(best, gamma, alpha)) == pytest.approx(posterior, abs=2e-3)
    assert float(focal_posterior(torch.tensor(0.3), 0.0, 0.5)) == pytest.approx(0.3)
    ends = focal_posterior(torch.tensor([0.0, 1.0]), 1.0, 0.25)
    assert torch.isfinite(ends).all() and ends[0] < 0.01 and ends[1] > 0.99


def test_calibration_error_by_hand() -> None:
    # Two images predicted 0.25 of which one has the class, two predicted 1 which both have it.
    posteriors = torch.tensor([[0.25], [0.25], [1.0], [1.0]])
    present = torch.tensor([[True], [False], [True], [True]])
    assert calibration_error(posteriors, present).tolist() == pytest.approx([0.125])
    assert math.isnan(calibration_error(torch.zeros(0, 1), torch.zeros(0, 1).bool()).item())
