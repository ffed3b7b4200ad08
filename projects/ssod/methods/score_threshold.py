"""Unbiased Teacher's choice of pseudo-labels: a fixed score threshold (Liu et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any, Dict

from detectron2.config import CfgNode

from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext
from ssod.structures import PseudoLabels


@METHOD_REGISTRY.register()
class ScoreThreshold(Method):
    """Keeps pseudo-labels with `score >= threshold`; their boxes classify but do not regress."""

    selects_pseudo_labels = True

    def __init__(self, *, threshold: float) -> None:
        super().__init__()
        if not 0.0 <= threshold <= 1.0:
            raise UserError(f"SSOD.SCORE_THRESHOLD is {threshold}: use a score between 0 and 1.")
        self.threshold = threshold

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.SCORE_THRESHOLD = 0.7

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {"threshold": cfg.SSOD.SCORE_THRESHOLD}

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        return pseudo.select([row.scores >= self.threshold for row in pseudo.instances])
