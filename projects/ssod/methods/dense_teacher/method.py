"""Dense Teacher as a method: dense soft labels take the place of pseudo-boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss
from torch import Tensor

from ssod.detectors.base import Capability
from ssod.detectors.dense.outputs import DenseOutputs
from ssod.detectors.dense.pairing import foreign_labels, teacher_rows
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.dense_teacher.losses import learning_region, quality_focal_loss
from ssod.methods.shared.dense_trial import use_retinanet
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

_NODE = "SSOD.DENSE_TEACHER"


@METHOD_REGISTRY.register()
class DenseTeacher(Method):
    """The student learns the teacher's class probabilities at the locations where they are highest.

    Pseudo-boxes do not train the student. Those above `score_threshold` count as selected, so that
    the usual curves and pictures show what the teacher sees. Objects that another method pastes
    train the student as boxes, and the dense labels leave out their locations.

    Args:
        top_fraction: share of all locations that form the learning region.
        gamma: exponent of the quality focal loss.
        cls_weight, reg_weight, quality_weight: weights of the three losses, lambda_u included. The
            last loss is for FCOS's centerness.
        first_step: first step of mutual learning.
        ramp_steps: number of steps in which the losses grow linearly to their full weights.
        score_threshold: lowest score of the boxes that are counted and drawn.
    """

    config_key = "DENSE_TEACHER"
    needs = (Capability.DENSE,)
    needs_online_teacher = True
    selects_pseudo_labels = True
    selection_key = "SSOD.DENSE_TEACHER.SCORE_THRESHOLD"
    groups = ("dense labels", "pseudo-box regression", "class thresholds")
    excludes = (
        *("fixed score threshold", "class thresholds", "pseudo-box regression"),
        *("mixed-in images", "moved images"),
    )
    activity_unit = "the teacher's scores in the learning region, summed, per image"

    def __init__(
        self,
        *,
        top_fraction: float,
        gamma: float,
        cls_weight: float,
        reg_weight: float,
        quality_weight: float,
        first_step: int,
        ramp_steps: int,
        score_threshold: float,
    ) -> None:
        super().__init__()
        if not 0 < top_fraction <= 1:
            raise UserError(
                f"{_NODE}.TOP_FRACTION is {top_fraction}: use a number above 0 and up to 1."
            )
        if not 0 <= score_threshold <= 1:
            raise UserError(
                f"{_NODE}.SCORE_THRESHOLD is {score_threshold}: use a score between 0 and 1."
            )
        for key, value in {
            "GAMMA": gamma,
            "CLS_WEIGHT": cls_weight,
            "REG_WEIGHT": reg_weight,
            "QUALITY_WEIGHT": quality_weight,
        }.items():
            if value < 0:
                raise UserError(f"{_NODE}.{key} is {value}: use 0 or more.")
        self.top_fraction, self.gamma = top_fraction, gamma
        self.cls_weight, self.reg_weight = cls_weight, reg_weight
        self.quality_weight = quality_weight
        self.first_step, self.ramp_steps = first_step, ramp_steps
        self.score_threshold = score_threshold

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.DENSE_TEACHER = CfgNode()
        # Share of all locations of a batch that form the learning region.
        node.TOP_FRACTION = 0.01
        node.GAMMA = 2.0  # of the quality focal loss
        # Each is multiplied by SSOD.UNSUP_LOSS_WEIGHT, 4. That gives the published 4, 1 and 1.
        node.CLS_WEIGHT = 1.0
        node.REG_WEIGHT = 0.25
        node.QUALITY_WEIGHT = 0.25
        # Steps of mutual learning in which the losses grow linearly. -1: as many as in the burn-in.
        node.RAMP_STEPS = -1
        # Lowest score of the boxes that are counted and drawn. They do not train the student.
        node.SCORE_THRESHOLD = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node, unsup = cfg.SSOD.DENSE_TEACHER, cfg.SSOD.UNSUP_LOSS_WEIGHT
        burn_in = cfg.SSOD.BURN_IN_STEPS
        if node.RAMP_STEPS < -1:
            raise UserError(f"{_NODE}.RAMP_STEPS is {node.RAMP_STEPS}: use 0 or more, or -1.")
        return {
            "top_fraction": node.TOP_FRACTION,
            "gamma": node.GAMMA,
            "cls_weight": unsup * node.CLS_WEIGHT,
            "reg_weight": unsup * node.REG_WEIGHT,
            "quality_weight": unsup * node.QUALITY_WEIGHT,
            "first_step": burn_in,
            "ramp_steps": burn_in if node.RAMP_STEPS < 0 else node.RAMP_STEPS,
            "score_threshold": node.SCORE_THRESHOLD,
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.DENSE_TEACHER
        node.RAMP_STEPS = (
            round(node.RAMP_STEPS / factor) if node.RAMP_STEPS > 0 else node.RAMP_STEPS
        )

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        use_retinanet(cfg, 1.1 * high)
        cfg.SSOD.DENSE_TEACHER.RAMP_STEPS = 0

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        return pseudo.select([row.scores >= self.score_threshold for row in pseudo.instances])

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        """Removes the losses of boxes at all locations except those of pasted objects."""
        if outputs.unlabeled is None or pseudo is None:
            return outputs
        view: DenseOutputs = outputs.unlabeled
        rows = replace(view.rows, valid=foreign_labels(view, pseudo))
        reg_weights = torch.where(rows.valid, rows.reg_weights, 0.0)
        rows = replace(rows, reg_weights=reg_weights)
        return replace(outputs, unlabeled=replace(view, locations=rows))

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        if outputs.unlabeled is None or context.teacher_outputs is None:
            return {}
        view: DenseOutputs = outputs.unlabeled
        teacher = context.teacher_outputs.predictions
        theirs, known = teacher_rows(view, teacher)
        known = known & ~view.rows.valid  # pasted objects already train as boxes
        theirs = theirs[known]
        with torch.no_grad():
            scores = teacher.flat("logits")[theirs].sigmoid()
            region = learning_region(scores, self.top_fraction)
            richness = scores.amax(dim=1)[region].sum()
            targets = torch.where(region[:, None], scores, 0.0)
        context.shared[self.name] = richness / max(len(view.view.images), 1)
        cls = quality_focal_loss(view.rows.logits[known], targets, self.gamma).sum()
        losses = {"loss_dense_cls": self.cls_weight * cls / richness.clamp(min=1e-6)}
        mine, theirs = known.nonzero().flatten()[region], theirs[region]
        transform = context.student.box2box_transform
        anchors = torch.cat([g.anchors.repeat(len(g.indices), 1) for g in view.predictions.groups])
        own = transform.apply_deltas(view.predictions.flat("deltas")[mine], anchors[mine])
        wanted = transform.apply_deltas(teacher.flat("deltas")[theirs], anchors[mine])
        # A box counts as much as the teacher trusts it.
        trust = torch.ones_like(wanted[:, 0])
        if teacher.groups[0].centerness is not None:
            trust = teacher.flat("centerness")[theirs].sigmoid()
            quality = view.predictions.flat("centerness")[mine]
            loss = F.binary_cross_entropy_with_logits(quality, trust)
            losses["loss_dense_quality"] = self.quality_weight * loss
        reg = (giou_loss(own, wanted, reduction="none") * trust).mean()
        losses["loss_dense_reg"] = self.reg_weight * reg
        share = self._ramp(context.step)
        get_event_storage().put_scalar("dense_teacher/ramp", share)
        return {name: share * loss for name, loss in losses.items()}

    def _ramp(self, step: int) -> float:
        if self.ramp_steps <= 0:
            return 1.0
        return min(max(step + 1 - self.first_step, 0) / self.ramp_steps, 1.0)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return context.shared.get(self.name, 0.0)

    def inert_reason(self, period: InertPeriod) -> str:
        return "no unlabelled image came in this period; check DATASETS.UNLABELED and SSOD.IMS_PER_BATCH_UNLABELED"

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.hosts.report import scalar_section

        return scalar_section(
            run, "DenseTeacher", "dense_teacher", {"ramp": "Share of the full loss weights"}
        )
