"""Class thresholds that give pseudo-labels the class distribution of the labels. Table 5 compares
GbT with them.

Chen et al., "Label Matching Semi-supervised Object Detection", CVPR 2022. This module has only its
thresholds. Its proposal self-assignment is another idea. Shapes: K foreground classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from ssod.config import class_number
from ssod.data.label_columns import boxes_per_class, label_columns
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, StepContext, TrainingData
from ssod.methods.ci_ssod.thresholds import matching_thresholds
from ssod.methods.shared.class_thresholds import ClassThresholds
from ssod.methods.shared.recording import RecordArrays
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

_BINS = 1000


@METHOD_REGISTRY.register()
class LabelMatchThresholds(ClassThresholds):
    """Keeps as many pseudo-labels of each class per image as the labelled set has boxes.

    The distribution of the teacher's scores is a moving average of histograms instead of lists of
    the last scores.

    Args:
        initial: threshold during warm-up, and before the teacher has labelled anything. decay:
            decay of the histograms, per micro-batch. first_step, rpn_threshold: see
            `ClassThresholds`.
    """

    config_key = "LABEL_MATCH"
    selection_key = "SSOD.PSEUDO_SCORE_FLOOR"
    histogram: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        initial: float,
        decay: float,
        first_step: int,
        rpn_threshold: float,
    ) -> None:
        super().__init__(fixed=initial, first_step=first_step, rpn_threshold=rpn_threshold)
        node = "SSOD.LABEL_MATCH"
        if not 0.0 <= initial <= 1.0:
            raise UserError(f"{node}.INITIAL_THRESHOLD is {initial}: use a score between 0 and 1.")
        if not 0 <= decay < 1:
            raise UserError(f"{node}.EMA_DECAY is {decay}: use a value from 0 to below 1.")
        self.initial, self.decay = initial, decay
        self.wanted = torch.zeros(num_classes)
        self.register_buffer("histogram", torch.zeros(num_classes, _BINS))
        self.register_buffer("seen", torch.zeros(()))  # the moving average's sum of coefficients

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.LABEL_MATCH = CfgNode()
        node.INITIAL_THRESHOLD = 0.9
        node.EMA_DECAY = 0.9995
        cls.add_common_config(node)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node, parts = cfg.SSOD.LABEL_MATCH, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
        return {
            "num_classes": class_number(cfg)[1],
            "initial": node.INITIAL_THRESHOLD,
            "decay": node.EMA_DECAY ** (1 / parts),
            **cls.common_config(cfg, "LABEL_MATCH"),
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.LABEL_MATCH
        node.EMA_DECAY **= factor
        node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        # Scores fall in the first steps, and learnt thresholds follow late: the first step selects.
        cfg.SSOD.LABEL_MATCH.INITIAL_THRESHOLD = low

    def setup(self, data: TrainingData) -> None:
        counts = boxes_per_class(label_columns(data.labeled), len(self.wanted))
        self.wanted = torch.from_numpy(counts / max(1, len(data.labeled))).float()

    def learnt_thresholds(self, context: StepContext) -> Tensor:
        """(K,); see `matching_thresholds`."""
        matched = matching_thresholds(
            self.histogram / self.seen.clamp(min=1e-12), self.wanted.to(self.histogram)
        )
        return torch.where(self.seen > 0, matched, self.initial)

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if pseudo is not None and pseudo.instances:
            self._count(pseudo)
        self.latest = self.thresholds(context)

    def _count(self, pseudo: PseudoLabels) -> None:
        classes = torch.cat([row.gt_classes for row in pseudo.instances])
        scores = torch.cat([row.scores for row in pseudo.instances]).float()
        bins = (scores * _BINS).long().clamp(0, _BINS - 1)
        batch = torch.zeros_like(self.histogram)
        batch.view(-1).index_add_(0, classes * _BINS + bins, torch.ones_like(scores))
        images = torch.full_like(self.seen, len(pseudo.instances))
        all_reduce_sum([batch, images])
        self.histogram.lerp_(batch / images, 1 - self.decay)
        self.seen.lerp_(torch.ones_like(self.seen), 1 - self.decay)

    def build_hooks(self) -> List[HookBase]:
        return [RecordArrays(self.name, self._arrays)]

    def _arrays(self, step: int) -> Dict[str, np.ndarray]:
        assert self.latest is not None
        return {"threshold": self.latest.cpu().numpy()}

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.ci_ssod.report import threshold_section

        return threshold_section(run, cls.__name__)
