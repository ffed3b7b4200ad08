"""Gradient-based thresholding, GbT (CI-SSOD, section 3.3).

Shapes: K foreground classes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from ssod.config import class_number
from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, StepContext, find_method
from ssod.methods.ci_ssod.balance import ClassBalance
from ssod.methods.ci_ssod.reweighting import GradientReweighting, balance_arrays, scale_balance
from ssod.methods.ci_ssod.thresholds import class_thresholds
from ssod.methods.selection import selection_floors
from ssod.methods.shared.class_thresholds import ClassThresholds
from ssod.methods.shared.recording import RecordArrays
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

logger = logging.getLogger(__name__)

_REWEIGHTING = GradientReweighting.__name__


@METHOD_REGISTRY.register()
class GradientThresholding(ClassThresholds):
    """Selects pseudo-labels with the thresholds of `class_thresholds`.

    If GradientReweighting is listed too, the class weights are taken from it. Otherwise they are
    computed here in the same way, and applied to thresholds only.

    Args:
        balance: the class weights. None: GradientReweighting has them. base: theta, and the
            threshold during warm-up.
        low, high: bounds of the final thresholds. score_decay: decay of the moving average of the
            teacher's scores per class, over all its detections. use_gradient, use_score: which of
            the two terms are used (Table 5 has each alone).
        first_step, rpn_threshold: see `ClassThresholds`.
    """

    needs = (Capability.SOFTMAX_ROWS,)
    config_key = "GRADIENT_THRESHOLDING"
    groups = (*ClassThresholds.groups, "gradient matrix")
    excludes = (*ClassThresholds.excludes, "sigmoid classifier")
    selection_key = "SSOD.GRADIENT_THRESHOLDING.LOW"
    score_means: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        balance: Optional[ClassBalance],
        base: float,
        low: float,
        high: float,
        score_decay: float,
        use_gradient: bool,
        use_score: bool,
        first_step: int,
        rpn_threshold: float,
    ) -> None:
        super().__init__(fixed=base, first_step=first_step, rpn_threshold=rpn_threshold)
        node = "SSOD.GRADIENT_THRESHOLDING"
        if not 0.0 <= low <= high <= 1.0 or not 0.0 <= base <= 1.0:
            raise UserError(
                f"{node}: LOW {low}, HIGH {high} and BASE {base} must be scores, LOW <= HIGH."
            )
        if not use_gradient and not use_score:
            raise UserError(
                f"{node}: USE_GRADIENT and USE_SCORE are both off: use ScoreThreshold instead."
            )
        if not 0 <= score_decay < 1:
            raise UserError(f"{node}.EMA_DECAY is {score_decay}: use a value from 0 to below 1.")
        self.balance = balance
        self.base, self.low, self.high = base, low, high
        self.score_decay = score_decay
        self.use_gradient, self.use_score = use_gradient, use_score
        # 0 marks a class that was not seen yet. With NaN, equal states would compare as different.
        self.register_buffer("score_means", torch.zeros(num_classes))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.GRADIENT_THRESHOLDING = CfgNode()
        node.BASE = 0.9
        node.EMA_DECAY = 0.9995  # decay of the mean scores (the paper's eta_p)
        node.LOW = 0.5
        node.HIGH = 0.9
        node.USE_GRADIENT = True
        node.USE_SCORE = True
        cls.add_common_config(node)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node, parts = cfg.SSOD.GRADIENT_THRESHOLDING, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
        shared = _REWEIGHTING in cfg.SSOD.METHODS
        for name, (key, threshold) in selection_floors(cfg).items():
            if name != cls.__name__ and key != "SSOD.SCORE_THRESHOLD" and threshold > node.LOW:
                logger.warning(
                    f"{name} selects too, by {key} {threshold:g}: labels below it never reach GradientThresholding. Set it "
                    f"to SSOD.GRADIENT_THRESHOLDING.LOW, {node.LOW:g}, or below."
                )
        return {
            "num_classes": class_number(cfg)[1],
            "balance": None if shared else ClassBalance.from_config(cfg),
            "base": node.BASE,
            "low": node.LOW,
            "high": node.HIGH,
            "score_decay": node.EMA_DECAY ** (1 / parts),
            "use_gradient": node.USE_GRADIENT,
            "use_score": node.USE_SCORE,
            **cls.common_config(cfg, "GRADIENT_THRESHOLDING"),
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        if _REWEIGHTING not in cfg.SSOD.METHODS:
            scale_balance(cfg, factor)
        node = cfg.SSOD.GRADIENT_THRESHOLDING
        node.EMA_DECAY **= factor
        node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        GradientReweighting.trial_config(cfg, high, low)  # sets the keys of the balance
        node = cfg.SSOD.GRADIENT_THRESHOLDING
        node.BASE, node.LOW = high, low

    def attach(self, student: Any) -> None:
        if self.balance is not None:
            self.balance.attach(student)

    def learnt_thresholds(self, context: StepContext) -> Tensor:
        """(K,); see `class_thresholds`."""
        balance = self.balance
        if balance is None:
            reweighting = find_method(context.methods, GradientReweighting)
            assert reweighting is not None
            balance = reweighting.balance
        weights = balance.weights[:-1] if self.use_gradient else torch.ones_like(self.score_means)
        means = None
        if self.use_score:
            means = torch.where(self.score_means > 0, self.score_means, torch.nan)
        return class_thresholds(weights, self.base, means, self.low, self.high)

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if self.balance is not None:
            self.balance.update(outputs)
        if pseudo is not None and pseudo.instances:
            classes = torch.cat([row.gt_classes for row in pseudo.instances])
            scores = torch.cat([row.scores for row in pseudo.instances]).float()
            sums = torch.stack([torch.zeros_like(self.score_means)] * 2)
            sums[0].index_add_(0, classes, scores)
            sums[1].index_add_(0, classes, torch.ones_like(scores))
            all_reduce_sum([sums])
            batch = sums[0] / sums[1]
            # A class's average starts with its first batch, not with 0.
            decay = torch.where(self.score_means > 0, self.score_decay, 0.0)
            moved = decay * self.score_means + (1 - decay) * batch
            self.score_means.copy_(torch.where(sums[1] > 0, moved, self.score_means))
        self.latest = self.thresholds(context)

    def inert_reason(self, period: InertPeriod) -> str:
        if period.last_step <= self.first_step:
            return super().inert_reason(period)
        if self.balance is not None and not self.use_score:
            return self.balance.inert_reason()
        return (
            f"no class's threshold lies below SSOD.GRADIENT_THRESHOLDING.BASE {self.base:g}: no class weighs more than 1, nor "
            f"scores below the mean of the classes (the best teacher score is {period.best_score:.2f})"
        )

    def build_hooks(self) -> List[HookBase]:
        return [RecordArrays(self.name, self._arrays)]

    def _arrays(self, step: int) -> Dict[str, np.ndarray]:
        assert self.latest is not None
        arrays = {
            "threshold": self.latest.cpu().numpy(),
            "score_mean": self.score_means.cpu().numpy(),
        }
        if self.balance is not None:
            arrays.update(balance_arrays(self.balance))
        return arrays

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.ci_ssod.report import threshold_section

        return threshold_section(run, cls.__name__)
