"""Two-stage filtering of pseudo-labels (ACRST, section "Two-stage Pseudo-label Filtering").

Shapes: M predictions of one image, K foreground classes.
"""

from __future__ import annotations

from detectron2.structures import Instances
from torch import Tensor

from ssod.errors import UserError

MODES = ("filter", "mine")
# The lowest score that mining accepts. The image-level activation alone would accept every box of
# an active class.
MINE_SCORE_FLOOR = 0.05


def two_stage_mask(
    scores: Tensor,
    classes: Tensor,
    image_scores: Tensor,
    score_threshold: float,
    image_threshold: float,
    mode: str = "filter",
) -> Tensor:
    """Selects the predictions of an image that become pseudo-labels.

    Args:
        scores: (M,) classification scores. classes: (M,) int64 in [0, K).
        image_scores: (K,) image-level activations, in [0, 1].
        score_threshold, image_threshold: tau_cls and tau_ml. A value equal to its threshold passes.
        mode: "filter": score and activation must pass. "mine" (Table 6): one of them is enough, and
            the score must be 0.05 or more.

    Returns:
        (M,) bool.

    Raises:
        UserError: the mode does not exist.
    """
    if mode not in MODES:
        raise UserError(f"SSOD.TWO_STAGE_FILTER.MODE is {mode!r}: use 'filter' or 'mine'.")
    likely = scores >= score_threshold
    active = (image_scores >= image_threshold)[classes]
    if mode == "filter":
        return likely & active
    return (likely | active) & (scores >= MINE_SCORE_FLOOR)


def two_stage_filter(
    instances: Instances,
    image_scores: Tensor,
    score_threshold: float,
    image_threshold: float,
    mode: str = "filter",
) -> Instances:
    """The predictions that pass `two_stage_mask`, in their order.

    Args:
        instances: M predictions with `scores` and `pred_classes`, and any further fields.
            image_scores: (K,).

    Example:
        >>> import torch
        >>> found = Instances((10, 10))
        >>> found.scores = torch.tensor([0.9, 0.8, 0.6])
        >>> found.pred_classes = torch.tensor([0, 1, 0])
        >>> two_stage_filter(found, torch.tensor([0.7, 0.1]), 0.7, 0.2).scores
        tensor([0.9000])
        >>> two_stage_filter(found, torch.tensor([0.7, 0.1]), 0.7, 0.2, mode="mine").scores
        tensor([0.9000, 0.8000, 0.6000])
    """
    keep = two_stage_mask(
        instances.scores,
        instances.pred_classes,
        image_scores,
        score_threshold,
        image_threshold,
        mode,
    )
    return instances[keep]
