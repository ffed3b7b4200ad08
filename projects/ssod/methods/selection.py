"""Score thresholds of the methods that select pseudo-labels, and the number of labels that pass."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY
from ssod.structures import PseudoLabels


def check_rpn_threshold(node: str, value: float) -> None:
    """Raises `UserError` unless `node`.RPN_SCORE_THRESHOLD is a score."""
    if not 0.0 <= value <= 1.0:
        raise UserError(
            f"{node}.RPN_SCORE_THRESHOLD is {value}: use a score between 0 and 1; 0: the RPN learns what the RoI head learns."
        )


def rpn_masks(pseudo: PseudoLabels, threshold: float) -> Optional[List[Tensor]]:
    """Which labels the RPN learns, one bool (M,) for each image. None for a threshold of 0: the RPN
    learns the RoI head's labels.
    """
    return [row.scores >= threshold for row in pseudo.instances] if threshold > 0 else None


def selection_floors(cfg: CfgNode) -> Dict[str, Tuple[str, float]]:
    """The `selection_key` and `selection_floor` of each method in the config that selects."""
    kinds = {name: METHOD_REGISTRY.get(name) for name in cfg.SSOD.METHODS}
    return {
        name: (kind.selection_key, kind.selection_floor(cfg))
        for name, kind in kinds.items()
        if kind.selects_pseudo_labels
    }


def main_threshold(cfg: CfgNode) -> Tuple[str, float]:
    """The lowest score with which the main branch trains on a label (t in LSM).

    If several methods select, a label must pass all of them, so the highest of their floors counts.

    Returns:
        The config key of the score, and its value.
    """
    default = ("SSOD.SCORE_THRESHOLD", float(cfg.SSOD.SCORE_THRESHOLD))
    return max(selection_floors(cfg).values(), key=lambda entry: entry[1], default=default)


def count_per_image(masks: Sequence[Tensor]) -> Tensor:
    """A scalar: the average number of set entries of the masks (one bool (M,) for each image).

    Example:
        >>> count_per_image([torch.tensor([True, False]), torch.tensor([True, True])])
        tensor(1.5000)
    """
    return torch.cat(list(masks)).sum() / max(len(masks), 1)


def selected_per_image(pseudo: Optional[PseudoLabels]) -> Union[float, Tensor]:
    """The number of labels per image that the main branch trains on. 0 in burn-in."""
    if pseudo is None:
        return 0.0
    return count_per_image([row.selected for row in pseudo.instances])
