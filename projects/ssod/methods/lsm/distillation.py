"""Self-distillation between PIM and the main branch (LSM, Eq. 7).

Shapes: R RoIs, K foreground classes (class K is background).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def in_interval(scores: Tensor, low: float, high: float) -> Tensor:
    """(M,) bool: `low < score < high`, both ends open as Eq. 7 prints them."""
    return (scores > low) & (scores < high)


def self_distillation_loss(
    main_logits: Tensor, aux_logits: Tensor, matched_scores: Tensor, low: float, high: float
) -> Tensor:
    """KL(aux || main) of the softmax distributions, the mean over RoIs with `low < matched score < high` (Eq. 7).

    The auxiliary classifier has seen low-confidence labels, so that its distribution is the target; neither side is
    detached, so that the main branch teaches it as well. The direction and temperature 1 are decisions:
    the paper only says KL.

    Args:
        main_logits, aux_logits: (R, K+1) of the same RoIs. matched_scores: (R,) score of the pseudo-label that each
            RoI was matched with, 0 for background. low, high: alpha and t.

    Returns:
        A scalar; 0, with a zero gradient, where no RoI is in the interval.
    """
    rows = in_interval(matched_scores, low, high).nonzero().flatten()
    main = F.log_softmax(main_logits[rows].float(), dim=1)
    aux = F.log_softmax(aux_logits[rows].float(), dim=1)
    divergence = F.kl_div(main, aux, reduction="sum", log_target=True)
    return divergence / max(len(rows), 1)
