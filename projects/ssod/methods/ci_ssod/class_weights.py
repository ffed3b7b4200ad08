"""Class weights that balance positive and negative gradients (CI-SSOD, Eq. 3 to 7).

Shapes: K foreground classes; matrices are (K+1, K+1) and weights (K+1,), background last. Row i of
a gradient matrix G holds the gradients that reach logit i. Column k holds those from RoIs of class
k (see `gradient_matrix`).
"""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor


@torch.no_grad()
def solve_class_weights(gradient_matrix: Tensor) -> Tensor:
    """Solves `w_i G_ii = -sum_{k != i} w_k G_ik` for every foreground class i, and `sum w = K + 1`
    (Eq. 3, 4).

    Classes without any gradient of their own (`G_ii = 0`) take no part: they get 1, and the weights
    of the others sum to the number of the others. If background takes no part, the equation of the
    sum replaces the equation of the last remaining class. A singular system is solved in the
    least-squares sense. Weights may be negative, as the paper says. They are not clamped.

    Args:
        gradient_matrix: (K+1, K+1).

    Returns:
        (K+1,) in the matrix's dtype.

    Example:
        >>> solve_class_weights(torch.tensor([[-1.0, 3.0], [1.0, -3.0]]))
        tensor([1.5000, 0.5000])
    """
    weights = torch.ones_like(gradient_matrix[0])
    seen = gradient_matrix.diagonal().nonzero().flatten()
    count = len(seen)
    if count == 0:
        return weights
    # LAPACK's rank-revealing solver exists on the CPU only.
    system, scale = _equilibrate(gradient_matrix[seen][:, seen].double().cpu())
    system[-1] = 1.0
    wanted = system.new_zeros(count, 1)
    wanted[-1] = 1.0
    solution = torch.linalg.lstsq(system, wanted, driver="gelsd").solution.flatten() * scale
    total = solution.sum()
    if total != 0:
        weights[seen] = (solution * (count / total)).to(weights)
    return weights


def _equilibrate(matrix: Tensor) -> Tuple[Tensor, Tensor]:
    """Scales rows and columns until the largest entry of each is about 1.

    A moving average makes the sizes of rows and columns differ. If a class was not drawn for a long
    time, its column has decayed, while its row still receives gradients.

    Args:
        matrix: (n, n), without zero rows or columns.

    Returns:
        The scaled (n, n), and the columns' factors (n,), at most 1. A solution of the scaled system
        times these factors solves the original one.
    """
    factors = torch.ones_like(matrix[0])
    for _ in range(10):
        matrix = matrix / matrix.abs().amax(dim=1, keepdim=True)
        size = matrix.abs().amax(dim=0)
        matrix = matrix / size
        factors = factors / size
    return matrix, factors / factors.max()


@torch.no_grad()
def jacobi_target(gradient_matrix: Tensor, weights: Tensor, low: float, high: float) -> Tensor:
    """One Jacobi iteration: `w_hat_i = -sum_{k != i} w_k G_ik / G_ii` (Eq. 6), clamped to [low,
    high].

    Classes with `G_ii = 0` keep their weight. Background gets `K + 1` minus the sum of the
    foreground targets before they are clamped.

    Args:
        gradient_matrix: (K+1, K+1). weights: (K+1,) of the last iteration.

    Returns:
        (K+1,).

    Example:
        >>> matrix = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        >>> jacobi_target(matrix, torch.tensor([0.5, 1.5]), low=0.1, high=10.0)
        tensor([1.5000, 0.5000])
    """
    diagonal = gradient_matrix.diagonal()
    others = gradient_matrix @ weights - diagonal * weights
    target = torch.where(diagonal == 0, weights, -others / diagonal)
    target[-1] = len(weights) - target[:-1].sum()
    return target.clamp(low, high)


def weights_from_logits(logits: Tensor) -> Tensor:
    """`w = (K + 1) softmax(a)` (Eq. 5): positive, and `K + 1` in sum. (K+1,) -> (K+1,)."""
    return len(logits) * torch.softmax(logits, dim=0)


def alignment_step(
    logits: Tensor,
    velocity: Tensor,
    target: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    loss_weight: float = 1.0,
) -> Tuple[Tensor, Tensor]:
    """One step of SGD on `loss_weight * L_align`, where `L_align = mean((log w_hat - a)^2)` (Eq.
    7). The derivative is written out.

    Args:
        logits: (K+1,) `a`. velocity: (K+1,) from the last step, 0 before the first. target: (K+1,)
            `w_hat`, positive.

    Returns:
        The new `a` and the new velocity, (K+1,) each.
    """
    gradient = loss_weight * 2.0 / len(logits) * (logits - target.log())
    velocity = momentum * velocity + gradient
    return logits - lr * velocity, velocity
