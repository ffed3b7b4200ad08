"""Self-distillation between PIM and the main branch (LSM, Eq. 7).

Shapes: R RoIs, K foreground classes (class K is background).
"""

from __future__ import annotations

from typing import Union

import torch.nn.functional as F
from torch import Tensor


def in_interval(scores: Tensor, low: float, high: Union[float, Tensor]) -> Tensor:
    """(M,) bool: `low < score < high`. Both ends are open, as in Eq. 7. `high` may be (M,)."""
    return (scores > low) & (scores < high)


def self_distillation_loss(
    main_logits: Tensor,
    aux_logits: Tensor,
    matched_scores: Tensor,
    low: float,
    high: Union[float, Tensor],
) -> Tensor:
    """KL(aux || main) of softmax distributions, summed over RoIs with `low < matched score < high`
    and divided by R (Eq. 7).

    R divides the sum as in Eq. 5 and 6, which average over all RoIs with the same indicator. So a
    RoI weighs as much as in these losses, even if few are in the interval. The auxiliary classifier
    has seen low-confidence labels, so its distribution is the target. Neither side is detached, so
    the main branch teaches it as well. The paper only says KL. The direction and the temperature 1
    are our decisions.

    Args:
        main_logits, aux_logits: (R, K+1) of the same RoIs. matched_scores: (R,) score of the
            pseudo-label that each RoI was matched with, 0 for background and for RoIs that take no
            part. low, high: alpha and t. t may be (R,).

    Returns:
        A scalar. It is 0 and has a zero gradient if no RoI is in the interval.

    Example:
        >>> import torch
        >>> main, aux = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> self_distillation_loss(main, aux, torch.tensor([0.5]), low=0.4, high=0.7)
        tensor(0.3278)
    """
    rows = in_interval(matched_scores, low, high).nonzero().flatten()
    main = F.log_softmax(main_logits[rows].float(), dim=1)
    aux = F.log_softmax(aux_logits[rows].float(), dim=1)
    divergence = F.kl_div(main, aux, reduction="sum", log_target=True)
    return divergence / max(len(matched_scores), 1)


def bernoulli_distillation_loss(main_logits: Tensor, aux_logits: Tensor) -> Tensor:
    """KL(aux || main) of each class's Bernoulli distribution, summed over classes and rows.

    This is Eq. 7 for a classifier of sigmoids, whose classes do not share a distribution. Neither
    side is detached, as in `self_distillation_loss`.

    Args:
        main_logits, aux_logits: (R, K) of the same rows.

    Returns:
        A scalar. It is 0 and has a zero gradient without rows.

    Example:
        >>> import torch
        >>> bernoulli_distillation_loss(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
        tensor(0.3278)
    """
    main, aux = main_logits.float(), aux_logits.float()
    present = F.logsigmoid(aux) - F.logsigmoid(main)
    absent = F.logsigmoid(-aux) - F.logsigmoid(-main)
    probability = aux.sigmoid()
    return (probability * present + (1 - probability) * absent).sum()
