"""Box regression on pseudo-boxes, which Unbiased Teacher leaves out."""

from __future__ import annotations

import torch

from ssod.methods.base import METHOD_REGISTRY, Method, StepContext
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

    activity_unit = "labels that regress, and did not, in a step"

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        ones = [torch.ones_like(row.scores) for row in pseudo.instances]
        return pseudo.with_columns([{"rpn_reg_weight": w, "roi_reg_weight": w} for w in ones])
