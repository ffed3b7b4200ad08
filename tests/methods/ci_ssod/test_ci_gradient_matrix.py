"""The gradient matrix against autograd, and by hand."""

from __future__ import annotations

from typing import Optional

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.detectors.rcnn.losses import roi_classification_loss
from ssod.errors import UserError
from ssod.methods.ci_ssod import gradient_matrix


def by_autograd(logits: Tensor, labels: Tensor, gamma: Optional[float], weights: Tensor) -> Tensor:
    """One backward pass over all RoIs; their rows are summed by label in a plain loop."""
    logits = logits.clone().requires_grad_(True)
    log_p = F.log_softmax(logits, dim=1)[torch.arange(len(labels)), labels]
    loss = -log_p if gamma is None else -((1 - log_p.exp()) ** gamma) * log_p
    (rows,) = torch.autograd.grad((loss * weights).sum(), logits)
    matrix = torch.zeros(logits.shape[1], logits.shape[1], dtype=logits.dtype)
    for row, label in zip(rows, labels.tolist()):
        matrix[:, label] += row
    return matrix


@pytest.mark.parametrize("gamma", [None, 0.0, 0.3, 1.0, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_equals_autograd(gamma: Optional[float], dtype: torch.dtype, tolerance: float) -> None:
    logits = 3 * torch.randn(60, 6, dtype=dtype)
    labels = torch.randint(0, 6, (60,))
    labels[labels == 2] = 5  # a class that does not occur
    weights = torch.rand(60, dtype=dtype)
    found = gradient_matrix(
        logits, labels, "ce" if gamma is None else "focal", gamma, roi_weights=weights
    )
    wanted = by_autograd(logits, labels, gamma, weights)
    assert found.dtype == dtype and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)
    assert not found[:, 2].any()
    assert (found.diagonal() <= 0).all()
    assert (found - torch.diag(found.diagonal()) >= 0).all()


@pytest.mark.parametrize("kind, gamma", [("cross_entropy", 0.0), ("focal", 0.5), ("focal", 1.5)])
def test_is_the_derivative_of_the_loss_in_use_even_where_it_saturates(
    kind: str, gamma: float
) -> None:
    logits = torch.tensor(
        [[40.0, 0.0, -5.0], [-40.0, 0.0, 3.0], [200.0, 0.0, 0.0], [9.0, 0.0, 1.0]]
    )
    labels = torch.zeros(4, dtype=torch.int64)
    with_grad = logits.clone().requires_grad_(True)
    (rows,) = torch.autograd.grad(
        roi_classification_loss(with_grad, labels, kind, gamma).sum(), with_grad
    )
    found = gradient_matrix(logits, labels, {"cross_entropy": "ce"}.get(kind, kind), gamma)
    assert torch.allclose(found[:, 0], rows.sum(0), rtol=1e-5, atol=1e-6)
    assert found.isfinite().all()


def test_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]))
    found = gradient_matrix(logits, torch.tensor([0, 0, 2]))
    wanted = torch.tensor([[-0.5 - 0.9, 0.0, 0.2], [0.3 + 0.6, 0.0, 0.2], [0.2 + 0.3, 0.0, -0.4]])
    assert torch.allclose(found, wanted, atol=1e-6)
    # gamma 2, p 0.5: factor (1-p)^2 - 2 p (1-p) log p
    factor = 0.25 + 2 * 0.5 * 0.5 * 0.6931472
    focal = gradient_matrix(logits[:1], torch.tensor([0]), "focal", 2.0)
    assert torch.allclose(focal[:, 0], factor * torch.tensor([-0.5, 0.3, 0.2]), atol=1e-6)


def test_columns_sum_to_zero() -> None:
    matrix = gradient_matrix(torch.randn(50, 5).double(), torch.randint(0, 5, (50,)), "focal", 1.0)
    assert torch.allclose(matrix.sum(0), torch.zeros(5).double(), atol=1e-12)


def test_nothing_gives_zeros() -> None:
    found = gradient_matrix(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert found.shape == (4, 4) and not found.any()


def test_unknown_loss() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    for loss in ("sigmoid", "focal"):
        with pytest.raises(UserError, match="gamma"):
            gradient_matrix(torch.zeros(1, 2), labels, loss)


def test_allocates_little_for_lvis() -> None:
    """512 x 8 RoIs of 1,203 classes: some arrays of the logits' size, far from the (R, K, K) of
    autograd's Jacobian.
    """
    logits, labels = torch.randn(4096, 1204), torch.randint(0, 1204, (4096,))
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        gradient_matrix(logits, labels, "focal", 1.0)
    size = logits.numel() * 4
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 1.1 * size
