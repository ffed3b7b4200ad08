"""Unbiased Teacher's selection of pseudo-labels: a fixed score threshold (Liu et al., ICLR
2021).
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Union

from detectron2.config import CfgNode
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.selection import check_rpn_threshold, rpn_masks, selected_per_image
from ssod.structures import PseudoLabels


@METHOD_REGISTRY.register()
class ScoreThreshold(Method):
    """Keeps pseudo-labels with `score >= threshold`. They train the classification but not the box
    regression.

    Args:
        threshold: threshold of the labels of both heads. rpn_threshold: a threshold for the RPN's
            labels alone. 0: the RPN uses `threshold`.
    """

    needs = ()
    groups = ("fixed score threshold",)
    selects_pseudo_labels = True
    activity_unit = "labels selected, per image"

    def __init__(self, *, threshold: float, rpn_threshold: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= threshold <= 1.0:
            raise UserError(f"SSOD.SCORE_THRESHOLD is {threshold}: use a score between 0 and 1.")
        check_rpn_threshold("SSOD", rpn_threshold)
        self.threshold = threshold
        self.rpn_threshold = rpn_threshold

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.SCORE_THRESHOLD = 0.7
        # The threshold of the RPN's pseudo-labels alone. 0: SCORE_THRESHOLD.
        cfg.SSOD.RPN_SCORE_THRESHOLD = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            "threshold": cfg.SSOD.SCORE_THRESHOLD,
            "rpn_threshold": cfg.SSOD.RPN_SCORE_THRESHOLD,
        }

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        chosen = [row.scores >= self.threshold for row in pseudo.instances]
        return pseudo.select(chosen, rpn_masks(pseudo, self.rpn_threshold))

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return selected_per_image(pseudo)

    def inert_reason(self, period: InertPeriod) -> str:
        reason = period.no_score_passes(self.threshold, "SSOD.SCORE_THRESHOLD")
        return reason or super().inert_reason(period)
