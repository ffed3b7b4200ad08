"""Score thresholds that methods select pseudo-labels with: those of a config, and the RPN's own; how many they select."""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ssod.errors import UserError
from ssod.structures import PseudoLabels


def check_rpn_threshold(node: str, value: float) -> None:
    """Raises `UserError` unless `node`.RPN_SCORE_THRESHOLD is a score."""
    if not 0.0 <= value <= 1.0:
        raise UserError(
            f"{node}.RPN_SCORE_THRESHOLD is {value}: use a score between 0 and 1; 0: the RPN learns what the RoI head learns."
        )


def rpn_masks(pseudo: PseudoLabels, threshold: float) -> Optional[List[Tensor]]:
    """Which labels the RPN learns, one bool (M,) an image; None for a threshold of 0: those of the RoI head."""
    return [row.scores >= threshold for row in pseudo.instances] if threshold > 0 else None


def fixed_thresholds(cfg: CfgNode) -> Dict[str, Tuple[str, float]]:
    """Selecting method -> (config key, value) of its score threshold.

    A method that has one of its own has it in `SSOD.<METHOD>.SCORE_THRESHOLD` (TwoStageFilter, ...); for all others it is
    `SSOD.SCORE_THRESHOLD`.
    """
    from ssod.methods import get_method  # imports the methods, which import this module

    found = {}
    for name in cfg.SSOD.METHODS:
        if get_method(name).selects_pseudo_labels:
            node = cfg.SSOD.get(config_node(name))
            own = isinstance(node, CfgNode) and "SCORE_THRESHOLD" in node
            key = f"SSOD.{config_node(name)}.SCORE_THRESHOLD" if own else "SSOD.SCORE_THRESHOLD"
            found[name] = (key, float(node.SCORE_THRESHOLD if own else cfg.SSOD.SCORE_THRESHOLD))
    return found


def main_threshold(cfg: CfgNode) -> Tuple[str, float]:
    """The main branch's score threshold t, as (config key, value): the highest where several methods select."""
    default = ("SSOD.SCORE_THRESHOLD", float(cfg.SSOD.SCORE_THRESHOLD))
    return max(fixed_thresholds(cfg).values(), key=lambda entry: entry[1], default=default)


def count_per_image(masks: Sequence[Tensor]) -> Tensor:
    """A scalar: how many entries of the masks, one bool (M,) an image, are set on average."""
    return torch.cat(list(masks)).sum() / max(len(masks), 1)


def selected_per_image(pseudo: Optional[PseudoLabels]) -> Union[float, Tensor]:
    """Labels that the main branch trains on, per image; 0 in burn-in."""
    if pseudo is None:
        return 0.0
    return count_per_image([row.selected for row in pseudo.instances])


def config_node(method: str) -> str:
    """Name of a method's config node: TwoStageFilter -> TWO_STAGE_FILTER."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", method).upper()
