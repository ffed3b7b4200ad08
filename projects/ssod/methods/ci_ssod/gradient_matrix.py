"""The gradient matrix of "Gradient-based Sampling for Class Imbalanced Semi-supervised Object
Detection", Eq. 1 and 2.

Shapes: R RoIs, K foreground classes (class K is background).
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.errors import UserError

# The same names as in `ssod.detectors.rcnn.losses.roi_classification_loss`. This module computes
# its derivative.
_LEAST_MISS = 1e-12


@torch.no_grad()
def gradient_matrix(
    logits: Tensor,
    labels: Tensor,
    loss: str = "ce",
    gamma: Optional[float] = None,
    *,
    roi_weights: Optional[Tensor] = None,
) -> Tensor:
    """Sums the loss's derivatives by logit and label: `G[i, k] = sum over RoIs j with label k of d
    f(x_j) / d x_j[i]`.

    In closed form: with `p` the probability of the label, both losses have `d f / d x_i = factor *
    (p_i - 1[i is the label])`, where the factor is 1 for cross-entropy `-log p` and `(1-p)^gamma -
    gamma p (1-p)^(gamma-1) log p` for the focal loss `-(1-p)^gamma log p`. Nothing larger than the
    logits and the result is allocated.

    Args:
        logits: (R, K+1). labels: (R,) in [0, K]. loss: "ce" or "focal". gamma: of the focal loss.
        roi_weights: (R,) factor of each RoI's loss. None: 1 for all.

    Returns:
        (K+1, K+1), row: the logit that receives the gradient, column: the label. The diagonal is <=
        0, the rest >= 0.

    Example:
        >>> gradient_matrix(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor([[-0.5000,  0.5000],
                [ 0.5000, -0.5000]])
    """
    if loss not in ("ce", "focal") or (loss == "focal" and gamma is None):
        raise UserError(f"Gradient matrix of the loss {loss!r}: use 'ce', or 'focal' with a gamma.")
    log_p = F.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)
    cross_entropy = -log_p.gather(1, labels[:, None]).squeeze(1)
    rows = log_p.exp_()
    miss = -torch.expm1(-cross_entropy)  # 1 - p, exact where p is near 1
    rows.scatter_(1, labels[:, None], -miss[:, None])
    factor = torch.ones_like(miss) if roi_weights is None else roi_weights.to(miss.dtype)
    if loss == "focal":
        assert gamma is not None
        floored = miss.clamp(min=_LEAST_MISS)
        slope = gamma * torch.exp(-cross_entropy) * floored ** (gamma - 1.0) * cross_entropy
        factor = factor * (floored**gamma + slope * (miss > _LEAST_MISS))
    rows.mul_(factor[:, None])
    size = logits.shape[1]
    return rows.new_zeros(size, size).index_add_(0, labels, rows).T
