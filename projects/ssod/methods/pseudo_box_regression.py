"""Box regression on pseudo-boxes, which Unbiased Teacher leaves out."""

from __future__ import annotations

from typing import Optional, Union

import torch
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.selection import count_per_image
from ssod.structures import PseudoLabels


@METHOD_REGISTRY.register()
class PseudoBoxRegression(Method):
    """Every selected pseudo-box trains the box regression of RPN and RoI head, like a human
    label.
    """

    needs = ()
    groups = ("pseudo-box regression",)
    excludes = ("pseudo-box regression",)
    regresses_pseudo_boxes = True

    activity_unit = "labels that regress, per image"

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        ones = [torch.ones_like(row.scores) for row in pseudo.instances]
        return pseudo.with_columns([{"rpn_reg_weight": w, "roi_reg_weight": w} for w in ones])

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        if pseudo is None or any(m.only_own_boxes_regress for m in context.methods.values()):
            return 0.0
        return count_per_image(
            [row.selected & (row.roi_reg_weight > 0) for row in pseudo.instances]
        )

    def inert_reason(self, period: InertPeriod) -> str:
        if period.selected:
            return "only pasted boxes regress: set SSOD.CROP_BANK.SELECTIVE_SUPERVISION to False"
        return super().inert_reason(period)
