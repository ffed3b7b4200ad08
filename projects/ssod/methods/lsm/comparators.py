"""Methods that LSM compares with: multi-scale label consistency (Table 4), mining by area (Table 5,
row 2).
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Union

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.lsm.branch import HalfSizeBranch
from ssod.methods.selection import count_per_image, selected_per_image
from ssod.structures import PseudoLabels


@METHOD_REGISTRY.register()
class MLC(HalfSizeBranch):
    """Multi-scale label consistency: the half-size branch with the main branch's labels and
    classifier.

    Its boxes are regressed if the host's are.
    """

    config_key = "MLC"
    groups = ("main labels at half size",)
    excludes = ("main labels at half size", "labels mined at half size")
    all_regress = False
    activity_unit = "labels learnt at half size, per image"

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        # Higher than PIM's 0.5, because these are the main branch's labels and not doubtful ones.
        cfg.SSOD.MLC = CfgNode({"LOSS_WEIGHT": 1.0})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            **super().from_config(cfg),
            "loss_weight": cfg.SSOD.MLC.LOSS_WEIGHT,
            "in_features": None,
        }

    def masks(self, pseudo: PseudoLabels, context: StepContext) -> List[Tensor]:
        return [row.selected for row in pseudo.instances]

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return 0.0 if self.loss_weight == 0 else selected_per_image(pseudo)

    def inert_reason(self, period: InertPeriod) -> str:
        if self.loss_weight == 0:
            return "SSOD.MLC.LOSS_WEIGHT or SSOD.UNSUP_LOSS_WEIGHT is 0"
        return super().inert_reason(period)


@METHOD_REGISTRY.register()
class AreaMining(Method):
    """ScoreThreshold that also keeps large boxes of a lower score.

    Args:
        threshold: t, `score >= threshold` is enough for every box. low_threshold:
            `score > low_threshold` is enough for a large box.
        min_area: a box is large if its area, in square pixels of the image file, is greater.
    """

    needs = ()
    config_key = "AREA_MINING"
    excludes = ("fixed score threshold",)
    selects_pseudo_labels = True
    activity_unit = "labels mined by their area, per image"

    def __init__(self, *, threshold: float, low_threshold: float, min_area: float) -> None:
        super().__init__()
        if not 0.0 <= low_threshold < threshold <= 1.0:
            raise UserError(
                f"SSOD.AREA_MINING.LOW_THRESHOLD is {low_threshold:g} and SSOD.SCORE_THRESHOLD is {threshold:g}: the first "
                "must be the lower one, both between 0 and 1."
            )
        self.threshold = threshold
        self.low_threshold = low_threshold
        self.min_area = min_area

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.AREA_MINING = CfgNode()
        cfg.SSOD.AREA_MINING.LOW_THRESHOLD = 0.5
        cfg.SSOD.AREA_MINING.MIN_AREA = 96.0**2  # square pixels of the image file

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            "threshold": cfg.SSOD.SCORE_THRESHOLD,
            "low_threshold": cfg.SSOD.AREA_MINING.LOW_THRESHOLD,
            "min_area": cfg.SSOD.AREA_MINING.MIN_AREA,
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.SSOD.AREA_MINING.LOW_THRESHOLD = low
        cfg.SSOD.AREA_MINING.MIN_AREA = 100.0

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        masks = []
        for row, sample in zip(pseudo.instances, context.batch.unlabeled):
            # The scale is pixels of the view per pixel of the file. The view is resized at random.
            scale = abs(float(np.linalg.det(sample.geometry.matrix[:, :2])))
            large = row.gt_boxes.area() > self.min_area * scale
            masks.append(
                (row.scores >= self.threshold) | (large & (row.scores > self.low_threshold))
            )
        return pseudo.select(masks)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        if pseudo is None:
            return 0.0
        return count_per_image(
            [row.selected & (row.scores < self.threshold) for row in pseudo.instances]
        )

    def inert_reason(self, period: InertPeriod) -> str:
        key = "SSOD.AREA_MINING.LOW_THRESHOLD"
        return period.no_score_passes(self.low_threshold, key) or (
            f"no box of more than {self.min_area:g} square pixels scores between {self.low_threshold:g} and "
            f"{self.threshold:g}; lower SSOD.AREA_MINING.MIN_AREA if objects are small"
        )
