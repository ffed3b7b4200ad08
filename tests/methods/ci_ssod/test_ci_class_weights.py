"""Both solvers of Eq. 3 and 4, against each other and against the equations."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest
import torch
from torch import Tensor

from ssod.methods.ci_ssod import gradient_matrix, jacobi_target, solve_class_weights
from ssod.methods.ci_ssod.class_weights import alignment_step, weights_from_logits


def softmax_matrix(classes: int, seed: int, imbalance: float = 0.6) -> Tensor:
    """Of random RoIs with class frequencies that fall by `imbalance`, background the most
    frequent.
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = imbalance ** torch.arange(classes, dtype=torch.float64)
    frequency = torch.cat([frequency, frequency.new_tensor([4.0])])
    labels = torch.multinomial(frequency, 60 * classes, replacement=True, generator=generator)
    labels[: classes + 1] = torch.arange(classes + 1)
    logits = torch.randn(len(labels), classes + 1, generator=generator, dtype=torch.float64)
    logits = logits + 1.5 * torch.nn.functional.one_hot(labels, classes + 1)
    return gradient_matrix(logits, labels, "focal", 1.0)


def jacobi(
    matrix: Tensor, low: float, high: float, steps: int, lr: float, momentum: float = 0.0
) -> Tensor:
    logits, velocity = torch.zeros_like(matrix[0]), torch.zeros_like(matrix[0])
    for _ in range(steps):
        target = jacobi_target(matrix, weights_from_logits(logits), low, high)
        logits, velocity = alignment_step(logits, velocity, target, lr=lr, momentum=momentum)
    return logits


@pytest.mark.parametrize("seed", range(4))
def test_direct_satisfies_the_equations(seed: int) -> None:
    matrix = softmax_matrix(7, seed)
    weights = solve_class_weights(matrix)
    residual = matrix @ weights
    assert torch.allclose(residual[:-1], torch.zeros(7).double(), atol=1e-10)  # Eq. 3
    assert float(weights.sum()) == pytest.approx(8.0)  # Eq. 4
    # Softmax losses: the null vector, so that background balances as well.
    assert float(residual[-1]) == pytest.approx(0.0, abs=1e-10)
    assert (weights > 0).all()


def test_direct_does_not_care_for_the_scale_of_rows() -> None:
    matrix = softmax_matrix(6, 1)
    scale = torch.logspace(0, -12, 7).double()
    assert torch.allclose(
        solve_class_weights(scale[:, None] * matrix), solve_class_weights(matrix), rtol=1e-8
    )


@pytest.mark.parametrize("sizes", [[1.0, 1e-8], [1.0, 1e-16], [1.0, 1e-30], [1e-25, 1e-5, 1e-12]])
def test_direct_of_decayed_columns(sizes: List[float]) -> None:
    """Classes that were not drawn for long: their columns have decayed, their rows still receive
    gradients.
    """
    matrix = softmax_matrix(20, 2)
    scale = torch.ones(21, dtype=torch.float64)
    scale[3 : 3 + len(sizes)] = torch.tensor(sizes, dtype=torch.float64)
    # w solves the scaled matrix if scale * w solves the matrix.
    wanted = solve_class_weights(matrix) / scale
    wanted = wanted * (21 / wanted.sum())
    found = solve_class_weights(matrix * scale)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=0)
    assert float(found.sum()) == pytest.approx(21.0)


def test_direct_by_hand() -> None:
    # -4 w0 + 1 w1 + 1 w2 = 0 and 2 w0 - 3 w1 + 1 w2 = 0  ->  w1 = 1.5 w0, w2 = 2.5 w0
    matrix = torch.tensor([[-4.0, 1.0, 1.0], [2.0, -3.0, 1.0], [2.0, 2.0, -2.0]])
    assert torch.allclose(solve_class_weights(matrix), torch.tensor([0.6, 0.9, 1.5]))


def test_unseen_classes_leave_the_direct_system() -> None:
    matrix = softmax_matrix(5, 3)
    bigger = torch.zeros(8, 8, dtype=torch.float64)
    kept = torch.tensor([0, 2, 3, 5, 6, 7])
    bigger[kept[:, None], kept] = matrix
    bigger[1] = torch.rand(8)  # an unseen class still receives gradients
    bigger[1, 1] = 0.0
    weights = solve_class_weights(bigger)
    assert weights[1] == 1.0 and weights[4] == 1.0
    assert torch.allclose(weights[kept], solve_class_weights(matrix))
    assert float(weights[kept].sum()) == pytest.approx(6.0)


def test_empty_and_singular_matrices_do_not_fail() -> None:
    assert solve_class_weights(torch.zeros(4, 4)).tolist() == [1.0] * 4
    singular = torch.tensor([[-1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [2.0, -2.0, 0.0]])
    singular[1, 1] = -1.0
    singular[2, 2] = -1.0
    assert solve_class_weights(singular).isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_jacobi_reaches_the_direct_solution(seed: int) -> None:
    matrix = softmax_matrix(7, seed)
    direct = solve_class_weights(matrix)
    logits = jacobi(matrix, 1e-3, 1e3, lr=0.04, steps=5000)
    assert torch.allclose(weights_from_logits(logits), direct, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_jacobi_reaches_its_clamped_fixed_point(seed: int) -> None:
    """Where the solution lies outside the bounds: a = log w_hat(w(a)), and every a within the
    bounds.
    """
    matrix = softmax_matrix(9, seed, imbalance=0.2)
    direct = solve_class_weights(matrix)
    assert direct.max() > 2 or direct.min() < 0.8
    logits = jacobi(matrix, 0.8, 2.0, lr=0.2, steps=8000)
    target = jacobi_target(matrix, weights_from_logits(logits), 0.8, 2.0)
    assert torch.allclose(logits, target.log(), atol=1e-6)
    assert target.min() >= 0.8 and target.max() <= 2.0


def test_jacobi_of_an_ill_conditioned_matrix_stays_finite() -> None:
    matrix = softmax_matrix(6, 0).float()
    matrix[:, 2] *= 1e-30
    matrix[1] *= 1e-20
    logits = jacobi(matrix, 1 / 3, 5.0, lr=0.5, steps=500)
    weights = weights_from_logits(logits)
    assert weights.isfinite().all() and (weights > 0).all()
    assert float(weights.sum()) == pytest.approx(7.0, rel=1e-5)


def test_jacobi_target_by_hand() -> None:
    matrix = torch.tensor(
        [[-4.0, 2.0, 0.0, 6.0], [1.0, -2.0, 0.0, 7.0], [1.0, 1.0, 0.0, 1.0], [2.0, 0.0, 0.0, -9.0]]
    )
    weights = torch.tensor([0.5, 1.0, 2.0, 0.5])
    # Class 0: (2 * 1 + 6 * 0.5) / 4 = 1.25; class 1: (1 * 0.5 + 7 * 0.5) / 2 = 2; class 2 unseen:
    # 2; background: 4 - 5.25 = -1.25, clamped; class 1 and 2 are clamped after that sum.
    found = jacobi_target(matrix, weights, 0.4, 1.5)
    assert found.tolist() == pytest.approx([1.25, 1.5, 1.5, 0.4])


def test_alignment_step_is_pytorchs_sgd() -> None:
    start = torch.randn(5)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=0.9)
    logits, velocity = start, torch.zeros(5)
    for _ in range(4):
        target = torch.rand(5) + 0.5
        optimizer.zero_grad()
        (5.0 * ((target.log() - parameter) ** 2).mean()).backward()
        optimizer.step()
        logits, velocity = alignment_step(
            logits, velocity, target, lr=0.01, momentum=0.9, loss_weight=5.0
        )
        assert torch.allclose(logits, parameter.detach(), atol=1e-6)


def test_softmax_weights() -> None:
    weights = weights_from_logits(torch.tensor([0.0, 1.0, -1.0]))
    assert float(weights.sum()) == pytest.approx(3.0)
    assert float(weights[1] / weights[0]) == pytest.approx(2.718282, rel=1e-5)


def test_momentum_and_loss_weight_bring_rare_classes_up_within_a_short_run() -> None:
    """configs/digit_scenes/ci_ssod has the paper's rate: 10 classes move in tens of steps, LVIS's
    in 1,200.
    """
    from ssod.engine.setup import load_config

    path = Path(__file__).parents[3] / "configs" / "digit_scenes" / "ci_ssod.yaml"
    node = load_config(str(path)).SSOD.GRADIENT_REWEIGHTING
    low, high = node.BOUNDS
    # Untrained, so that all that tells classes apart is how often they occur.
    frequency = torch.tensor([8.0] * 5 + [1.0] * 5 + [120.0])
    labels = torch.repeat_interleave(torch.arange(11), frequency.long())
    matrix = gradient_matrix(torch.zeros(len(labels), 11), labels, "focal", 1.0)

    def weights(steps: int, momentum: float, align_weight: float) -> Tensor:
        rate = node.LR * align_weight
        return weights_from_logits(jacobi(matrix, low, high, steps, rate, momentum))

    found = {n: weights(n, node.MOMENTUM, node.ALIGN_WEIGHT) for n in (50, 400)}
    for value in found.values():
        assert value[5:10].min() > value[:5].max() > value[10]
        assert value.isfinite().all() and value.max() <= high
    assert found[50][5:10].mean() > 1.3
    assert torch.allclose(found[50], found[400], atol=0.1)  # it has arrived
    assert weights(50, 0.0, 1.0)[5:10].mean() < 1.1
