"""The non-negative positive-unlabelled risk (Kiryo et al., NIPS 2017; Eq. 6 of PUDet).

Shapes: P positive and U unlabelled examples, one logit g(x) each; g > 0 means positive.
"""

from __future__ import annotations

from typing import Callable, Dict, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.errors import UserError


def nnpu_risk(
    positive_logits: Tensor, unlabelled_logits: Tensor, prior: float, loss: str = "sigmoid"
) -> Tensor:
    """`R = pi R_p^+(g) + max(0, R_u^-(g) - pi R_p^-(g))`.

    Args:
        positive_logits: (P,). unlabelled_logits: (U,). prior: pi, the share of positives among the
            unlabelled examples, in (0, 1).
        loss: l(z, y) of a logit and a label of +-1: "sigmoid" `sigma(-y z)`, or "logistic" `log(1 +
            exp(-y z))`.

    Returns:
        A scalar. A mean over no example is 0, so an empty input gives a zero with a gradient.

    Raises:
        UserError: the prior is not between 0 and 1, or the loss does not exist.

    Example:
        >>> nnpu_risk(torch.tensor([0.0]), torch.tensor([0.0]), prior=0.5)
        tensor(0.5000)
    """
    positive, negative = _parts(positive_logits, unlabelled_logits, prior, loss)
    return positive + negative.clamp(min=0.0)


def nnpu_ascent(
    positive_logits: Tensor,
    unlabelled_logits: Tensor,
    prior: float,
    beta: float = 0.0,
    gamma: float = 1.0,
    loss: str = "sigmoid",
) -> Tensor:
    """The value to minimise in Kiryo's Algorithm 1. It undoes overfitting, while `nnpu_risk` only
    stops it.

    If the negative part N = R_u^- - pi R_p^- is below -beta, the value is -gamma N, so that the
    step raises N. Otherwise it is the unclamped risk.

    Args:
        beta: how far below 0 the negative part may go. gamma: in [0, 1], discounts the ascending
            step.

    Example:
        >>> positive, unlabelled = torch.tensor([2.0]), torch.tensor([-2.0, -2.0])
        >>> round(float(nnpu_ascent(positive, unlabelled, prior=0.5)), 4)
        0.3212
        >>> round(float(nnpu_risk(positive, unlabelled, prior=0.5)), 4)
        0.0596
    """
    positive, negative = _parts(positive_logits, unlabelled_logits, prior, loss)
    return torch.where(negative < -beta, -gamma * negative, positive + negative)


def _parts(
    positive_logits: Tensor, unlabelled_logits: Tensor, prior: float, loss: str
) -> Tuple[Tensor, Tensor]:
    """`pi R_p^+` and `R_u^- - pi R_p^-`."""
    if not 0.0 < prior < 1.0:
        raise UserError(
            f"The class prior is {prior}: give the positives' share of the unlabelled images, between 0 and 1."
        )
    surrogates: Dict[str, Callable[[Tensor], Tensor]] = {
        "sigmoid": torch.sigmoid,
        "logistic": F.softplus,
    }
    if loss not in surrogates:
        raise UserError(f"The PU loss is {loss!r}: use {' or '.join(map(repr, surrogates))}.")
    value = surrogates[loss]
    positives, unlabelled = positive_logits.float(), unlabelled_logits.float()
    wrong_if_positive = _mean(value(-positives))  # R_p^+
    wrong_if_negative = _mean(value(positives))  # R_p^-
    return prior * wrong_if_positive, _mean(value(unlabelled)) - prior * wrong_if_negative


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)
