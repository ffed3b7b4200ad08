"""The base class of methods with one score threshold per class."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Union

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ssod.detectors.base import Need
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import InertPeriod, Method, StepContext
from ssod.methods.selection import check_rpn_threshold, rpn_masks
from ssod.structures import PseudoLabels


class ClassThresholds(Method):
    """Keeps pseudo-labels with `score >= threshold of their class`. They train the classification
    but not the box regression.

    The thresholds select the RoI head's labels. The RPN has no classes and uses a fixed threshold.
    The method cannot be combined with the fixed threshold or other class thresholds. It can be
    combined with filters that do not look at the score (ACRST's image-level stage). A label must
    pass all of them.

    Args:
        fixed: threshold of all classes during warm-up. first_step: the step that ends the warm-up.
            0: there is no warm-up.
        rpn_threshold: threshold of the RPN's labels. 0: the RPN learns the RoI head's labels.
    """

    needs: Tuple[Need, ...] = ()
    groups: Tuple[str, ...] = ("class thresholds",)
    excludes: Tuple[str, ...] = ("fixed score threshold", "class thresholds")
    selects_pseudo_labels = True
    activity_unit = "classes whose threshold differs from the fixed one"

    def __init__(
        self, *, fixed: float = 1.0, first_step: int = 0, rpn_threshold: float = 0.0
    ) -> None:
        super().__init__()
        self.fixed, self.first_step = fixed, first_step
        self.rpn_threshold = rpn_threshold
        # The thresholds after the last step, if the method keeps them for files that the report
        # draws. They are not part of the state.
        self.latest: Optional[Tensor] = None

    @staticmethod
    def add_common_config(node: CfgNode) -> None:
        """Adds the keys that `common_config` reads."""
        # The threshold of the RPN's labels. 0: the RPN learns the RoI head's labels.
        node.RPN_SCORE_THRESHOLD = 0.9
        # Steps of mutual learning in which the fixed threshold holds. The value is for COCO; use
        # 16,000 for LVIS, 32,000 for Objects365.
        node.WARMUP_STEPS = 12000

    @staticmethod
    def common_config(cfg: CfgNode, name: str) -> Dict[str, Any]:
        """`first_step` and `rpn_threshold` from the keys of SSOD.`name`."""
        node = cfg.SSOD[name]
        check_rpn_threshold(f"SSOD.{name}", node.RPN_SCORE_THRESHOLD)
        return {
            "first_step": first_step_after(cfg, f"SSOD.{name}", node.WARMUP_STEPS),
            "rpn_threshold": node.RPN_SCORE_THRESHOLD,
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        node = cfg.SSOD.get(cls.config_key, CfgNode())
        if "WARMUP_STEPS" in node:  # the node has the common keys
            node.WARMUP_STEPS, node.RPN_SCORE_THRESHOLD = 0, high

    def learnt_thresholds(self, context: StepContext) -> Tensor:
        """(K,) scores, after warm-up."""
        raise NotImplementedError

    def thresholds(self, context: StepContext) -> Tensor:
        """(K,) scores."""
        learnt = self.learnt_thresholds(context)
        warm = self.first_step > 0 and context.step < self.first_step
        return torch.full_like(learnt, self.fixed) if warm else learnt

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        thresholds = self.thresholds(context)
        chosen = [row.scores >= thresholds[row.gt_classes] for row in pseudo.instances]
        return pseudo.select(chosen, rpn_masks(pseudo, self.rpn_threshold))

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        if pseudo is None:
            return 0.0
        current = self.thresholds(context) if self.latest is None else self.latest
        return ((current - self.fixed).abs() > 1e-5).sum()

    def inert_reason(self, period: InertPeriod) -> str:
        if period.last_step <= self.first_step:
            return f"the fixed threshold {self.fixed:g} holds until step {self.first_step}; lower its WARMUP_STEPS in a short run"
        return super().inert_reason(period)


def first_step_after(cfg: CfgNode, node: str, warmup: int) -> int:
    """The step that ends a warm-up of `warmup` steps of mutual learning. Their key is
    `node`.WARMUP_STEPS.
    """
    if warmup < 0:
        raise UserError(f"{node}.WARMUP_STEPS is {warmup}: use 0 or more.")
    return cfg.SSOD.BURN_IN_STEPS + warmup
