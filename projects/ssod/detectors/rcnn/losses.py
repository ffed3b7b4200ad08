"""Losses as one value a row, so that any method can weight any row.

Shapes: R RoIs, F foreground rows, K foreground classes (class K is background).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

from ssod.errors import UserError


def roi_classification_loss(logits: Tensor, labels: Tensor, kind: str, gamma: float) -> Tensor:
    """Softmax cross-entropy, or the multi-class focal loss of Unbiased Teacher, `(1 - p)^gamma *
    CE`, no alpha.

    Args:
        logits: (R, K+1). labels: (R,) in [0, K]. kind: "cross_entropy" or "focal". gamma: of the
            focal loss.

    Returns:
        (R,) losses.
    """
    cross_entropy = F.cross_entropy(logits.float(), labels, reduction="none")
    if kind == "cross_entropy":
        return cross_entropy
    if kind == "focal":
        # 1 - p by expm1: exact where p is near 1. The floor keeps the gradient finite for gamma <
        # 1.
        miss = -torch.expm1(-cross_entropy)
        return miss.clamp(min=1e-12) ** gamma * cross_entropy
    raise UserError(f"SSOD.ROI_CLS_LOSS is {kind!r}: use 'cross_entropy' or 'focal'.")


def box_regression_loss(
    source: Tensor,
    deltas: Tensor,
    target: Tensor,
    transform: Box2BoxTransform,
    kind: str,
    beta: float,
) -> Tensor:
    """Detectron2's box regression losses without the reduction.

    Args:
        source: (F, 4) anchors or proposals. deltas: (F, 4) predictions. target: (F, 4) boxes.
        kind: MODEL.*.BBOX_REG_LOSS_TYPE. beta: smooth L1's transition point.

    Returns:
        (F,) losses, summed over the four coordinates.
    """
    deltas = deltas.float()
    if kind == "smooth_l1":
        wanted = transform.get_deltas(source, target)
        return smooth_l1_loss(deltas, wanted, beta, reduction="none").sum(dim=1)
    predicted = transform.apply_deltas(deltas, source)
    if kind == "giou":
        return giou_loss(predicted, target, reduction="none")
    if kind in ("diou", "ciou"):
        from fvcore import nn

        return getattr(nn, f"{kind}_loss")(predicted, target, reduction="none")
    raise UserError(f"BBOX_REG_LOSS_TYPE is {kind!r}: use smooth_l1, giou, diou or ciou.")


def foreground_deltas(deltas: Tensor, labels: Tensor) -> Tensor:
    """The (F, 4) deltas of each foreground row's own class.

    Args:
        deltas: (F, 4) class-agnostic or (F, 4K) class-specific. labels: (F,) in [0, K).
    """
    if deltas.shape[1] == 4:
        return deltas
    rows = torch.arange(len(labels), device=deltas.device)
    return deltas.view(len(deltas), deltas.shape[1] // 4, 4)[rows, labels]
