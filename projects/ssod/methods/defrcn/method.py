"""DeFRCN's two trainings as a Method: majority classes first, then balanced tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor

from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.evaluation.groups import read_groups
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext, TrainingData
from ssod.methods.defrcn.heads import DecoupledPooler, DecoupledRPNHead
from ssod.structures import PseudoLabels, Views

PHASES = ("base", "tuning")
MINORITY = "AP-minority"


@METHOD_REGISTRY.register()
class DeFRCN(Method):
    """Decouples the backbone from the heads by scaling the gradients that reach it.

    "base" learns the majority classes: labels of minority classes are left out. "tuning" starts
    from the weights of "base" and learns all classes of a balanced set, with a frozen box head.
    `MODEL.ROI_HEADS.NAME` must be "DecoupledROIHeads" and `MODEL.RPN.HEAD_NAME` "DecoupledRPNHead",
    so that loading the weights rebuilds their affine maps. The scores are calibrated at test time
    by `ssod.tools.calibrate`.

    Args:
        phase: see above. rpn_gradient, roi_gradient: the part of each head's gradient that reaches
            the backbone.
        labeled_file: the labelled set in COCO format, which names the minority classes. Only "base"
            needs it.
    """

    needs_unlabeled = False
    needs = (Capability.REGIONS, Capability.ONE_HEAD)
    config_key = "DEFRCN"
    groups = ("own RoI heads",)
    excludes = ("own RoI heads",)
    activity_unit = "part of the gradient that the backbone does not get, RPN + RoI head"

    def __init__(
        self, *, phase: str, rpn_gradient: float, roi_gradient: float, labeled_file: str
    ) -> None:
        super().__init__()
        if phase not in PHASES:
            raise UserError(
                f"SSOD.DEFRCN.PHASE is {phase!r}: use {' or '.join(map(repr, PHASES))}."
            )
        roi_key = f"{phase.upper()}_ROI_GRADIENT"
        for key, value in (("RPN_GRADIENT", rpn_gradient), (roi_key, roi_gradient)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"SSOD.DEFRCN.{key} is {value}: use a part from 0 to 1.")
        self.phase = phase
        self.rpn_gradient, self.roi_gradient = rpn_gradient, roi_gradient
        self.labeled_file = labeled_file
        self.learnt: Optional[Tensor] = None

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.DEFRCN = CfgNode()
        node.PHASE = "base"  # majority classes; or "tuning": all classes, frozen box head
        # The parts of the gradients that reach the backbone.
        node.RPN_GRADIENT = 0.0
        node.BASE_ROI_GRADIENT = 0.75
        node.TUNING_ROI_GRADIENT = 0.01

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.DEFRCN
        base = node.PHASE == "base"
        declared = cfg.SSOD.DATASETS.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
        return {
            "phase": node.PHASE,
            "rpn_gradient": node.RPN_GRADIENT,
            "roi_gradient": node.BASE_ROI_GRADIENT if base else node.TUNING_ROI_GRADIENT,
            "labeled_file": (declared or {}).get("ANNOTATIONS", ""),
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.MODEL.RPN.HEAD_NAME = "DecoupledRPNHead"
        cfg.MODEL.ROI_HEADS.NAME = "DecoupledROIHeads"
        cfg.SSOD.DEFRCN.PHASE = "tuning"

    def setup(self, data: TrainingData) -> None:
        if self.phase != "base":
            return
        groups = read_groups(self.labeled_file, data.class_names) if self.labeled_file else {}
        if MINORITY not in groups:
            raise UserError(
                "SSOD.DEFRCN.PHASE 'base' leaves minority classes out, and the labelled set does not name any: make it with "
                "ssod.tools.make_splits --minority."
            )
        self.learnt = torch.ones(len(data.class_names), dtype=torch.bool)
        self.learnt[list(groups[MINORITY])] = False

    def attach(self, student: GeneralizedRCNN) -> None:
        head, heads = student.proposal_generator.rpn_head, student.roi_heads
        if not isinstance(head, DecoupledRPNHead) or not isinstance(
            heads.box_pooler, DecoupledPooler
        ):
            raise UserError(
                "DeFRCN needs its own heads: set MODEL.RPN.HEAD_NAME to DecoupledRPNHead and MODEL.ROI_HEADS.NAME to "
                "DecoupledROIHeads, so that evaluation of the saved weights has them too."
            )
        head.affine.gradient_scale = self.rpn_gradient
        heads.box_pooler.affine.gradient_scale = self.roi_gradient
        if self.phase == "tuning":
            heads.box_head.requires_grad_(False)

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        if self.learnt is None:
            return views
        targets = views.labeled.targets
        kept = [t[self.learnt.to(t.gt_classes.device)[t.gt_classes]] for t in targets]
        return replace(views, labeled=replace(views.labeled, targets=kept))

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return (1 - self.rpn_gradient) + (1 - self.roi_gradient)
