"""Consistent-Teacher's adaptive threshold as a method. The threshold follows the teacher's recent
scores.

Shapes: K foreground classes, S stored scores of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from ssod.config import class_number
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, StepContext
from ssod.methods.gmm_threshold.mixture import POLICIES, mixture_thresholds
from ssod.methods.shared.class_thresholds import ClassThresholds
from ssod.methods.shared.recording import RecordArrays
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section


@METHOD_REGISTRY.register()
class GMMThreshold(ClassThresholds):
    """Keeps labels whose score belongs to the higher one of two Gaussians. They are fitted for each
    class to the teacher's last scores.

    The threshold follows the teacher. While its scores are low, labels with low scores are
    selected, so that no class is without a label for long. When the scores rise, the threshold
    rises too.

    Args:
        scores_per_class: S, the number of last scores that are kept for each class. min_scores: a
            class with fewer scores has the threshold `initial`. policy: see `mixture_thresholds`.
            low, high: bounds of every threshold.
    """

    config_key = "GMM_THRESHOLD"
    selection_key = "SSOD.GMM_THRESHOLD.LOW"
    scores: Tensor
    counts: Tensor
    limits: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        scores_per_class: int,
        min_scores: int,
        policy: str,
        initial: float,
        low: float,
        high: float,
    ) -> None:
        super().__init__(fixed=initial, first_step=0, rpn_threshold=0.0)
        node = "SSOD.GMM_THRESHOLD"
        for key, value in (("INITIAL", initial), ("LOW", low), ("HIGH", high)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"{node}.{key} is {value}: use a score between 0 and 1.")
        if low > high:
            raise UserError(f"{node}.LOW {low} is above HIGH {high}: exchange them.")
        if min_scores < 2:
            raise UserError(f"{node}.MIN_SCORES is {min_scores}: two Gaussians need 2 or more.")
        if scores_per_class < min_scores:
            raise UserError(
                f"{node}.SCORES_PER_CLASS is {scores_per_class}: use MIN_SCORES ({min_scores}) or more."
            )
        if policy not in POLICIES:
            raise UserError(f"{node}.POLICY is {policy!r}: use {' or '.join(map(repr, POLICIES))}.")
        self.min_scores, self.policy = min_scores, policy
        self.initial, self.low, self.high = initial, low, high
        # The newest score of a class is the last one of its first `counts` entries.
        self.register_buffer("scores", torch.zeros(num_classes, scores_per_class))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("limits", torch.full((num_classes,), float(initial)))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.GMM_THRESHOLD = CfgNode()
        node.SCORES_PER_CLASS = 100
        # A class with fewer scores so far has the threshold INITIAL.
        node.MIN_SCORES = 10
        node.INITIAL = 0.5
        # "boundary": selects scores that more probably come from the high Gaussian. "mean": selects
        # those of them above its mean.
        node.POLICY = "mean"
        # Bounds of every threshold.
        node.LOW = 0.05
        node.HIGH = 0.95

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        values = {key.lower(): value for key, value in cfg.SSOD.GMM_THRESHOLD.items()}
        return {**values, "num_classes": class_number(cfg)[1]}

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        node = cfg.SSOD.GMM_THRESHOLD
        node.INITIAL, node.LOW = low, low / 4

    def learnt_thresholds(self, context: StepContext) -> Tensor:
        """(K,) thresholds from the scores up to the step before."""
        return self.limits

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if pseudo is None:
            return
        found = context.teacher_outputs
        # These are the teacher's own scores, before other methods change them.
        rows = found.detections if found is not None else pseudo.instances
        classes = [row.pred_classes if found is not None else row.gt_classes for row in rows]
        empty = torch.zeros(0)
        own = (
            torch.cat([empty, *(row.scores.float().cpu() for row in rows)]),
            torch.cat([empty.long(), *(labels.cpu() for labels in classes)]),
        )
        for new_scores, new_classes in comm.all_gather(own):
            self._remember(new_scores.to(self.scores), new_classes.to(self.counts))
        enough = self.counts >= self.min_scores
        fitted = mixture_thresholds(self.scores, self.counts, self.policy).to(self.limits)
        fitted = fitted.clamp(self.low, self.high)
        self.limits.copy_(torch.where(enough, fitted, self.initial))
        self.latest = self.limits

    def _remember(self, scores: Tensor, classes: Tensor) -> None:
        """Appends the scores to the rows of their classes. The oldest scores leave."""
        size = self.scores.shape[1]
        for label in classes.unique().tolist():
            kept = torch.cat([self.scores[label, : self.counts[label]], scores[classes == label]])
            kept = kept[-size:]
            self.scores[label, : len(kept)] = kept
            self.counts[label] = len(kept)

    def build_hooks(self) -> List[HookBase]:
        return [RecordArrays(self.name, lambda step: {"threshold": self.limits.cpu().numpy()})]

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.ci_ssod.report import threshold_section

        return threshold_section(run, cls.__name__)
