"""ALDI's soft distillation as a method. On unlabelled images the teacher's distributions replace
hard labels.

Shapes: N unlabelled images, R sampled RoIs over all of them, S sampled anchors of one image, K
foreground classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.losses import foreground_deltas
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.rpn import objectness_of
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext
from ssod.methods.shared.teacher_judgement import judge_rois
from ssod.methods.soft_distillation.losses import covered_by, sharpened, soft_cross_entropy
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

# The column is 1 for the teacher's own labels. Rows that other methods add (pasted objects) get 0,
# because their labels are hard.
TEACHER_COLUMN = "soft_target"
_SCALAR_PERIOD = 20


@dataclass
class _Targets:
    """The soft targets of one step.

    rois: weights of the soft RoI losses, (R,) for each stage of the box head, 0 for hard labels.
    anchors: weights, (S,) for each image. objectness: the teacher's probabilities, (S,) for each
    image.
    """

    rois: List[Tensor]
    anchors: List[Tensor]
    objectness: List[Tensor]


@METHOD_REGISTRY.register()
class SoftDistillation(Method):
    """RoIs and anchors of unlabelled images learn the teacher's predictions for the same boxes.

    The loss of RoI classification is the cross-entropy with the teacher's class distribution in the
    weak view, background included. So an object between two classes has a target between them, and
    an object without a label is not taught as background. The loss of the RPN is the binary
    cross-entropy with the teacher's objectness. The labels that other methods select still decide
    which RoIs and anchors are sampled. RoIs and anchors on pasted objects keep their hard labels.

    Args:
        loss_weight: weight of all soft losses, a further factor besides lambda_u. lambda_u also
            weighs the hard losses of pasted objects.
        temperature: temperature of the teacher's class distribution. Values below 1 sharpen it.
            rpn: whether anchors are distilled too.
        box_loss_weight: weight of a smooth L1 loss between the student's and the teacher's box
            deltas. Each RoI is weighted by the teacher's foreground probability. 0: no such loss.
            unsup_loss_weight: lambda_u.
    """

    config_key = "SOFT_DISTILLATION"
    excludes = ("teacher's RoIs", "mixed-in images", "moved images", "sigmoid classifier")
    needs_online_teacher = True
    activity_unit = "RoIs distilled, per image"

    def __init__(
        self,
        *,
        loss_weight: float,
        temperature: float,
        rpn: bool,
        box_loss_weight: float,
        unsup_loss_weight: float,
    ) -> None:
        super().__init__()
        node = "SSOD.SOFT_DISTILLATION"
        if not temperature > 0.0:
            raise UserError(f"{node}.TEMPERATURE is {temperature}: use a number above 0.")
        for key, value in (("LOSS_WEIGHT", loss_weight), ("BOX_LOSS_WEIGHT", box_loss_weight)):
            if value < 0.0:
                raise UserError(f"{node}.{key} is {value}: use 0 or more.")
        self.temperature, self.rpn = temperature, rpn
        self.box_loss_weight = box_loss_weight
        self.loss_weight = loss_weight * unsup_loss_weight

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.SOFT_DISTILLATION = CfgNode()
        node.LOSS_WEIGHT = 1.0  # times UNSUP_LOSS_WEIGHT
        node.TEMPERATURE = 1.0  # below 1 sharpens the teacher's distribution
        node.RPN = True
        node.BOX_LOSS_WEIGHT = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        values = {key.lower(): value for key, value in cfg.SSOD.SOFT_DISTILLATION.items()}
        return {**values, "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT}

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        return pseudo.with_columns(
            [{TEACHER_COLUMN: torch.ones_like(row.scores)} for row in pseudo.instances]
        )

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        view = outputs.unlabeled
        if view is None:
            return outputs
        soft = [self._soft_rois(stage) for stage in view.stages]
        rois = [torch.where(rows, stage.cls_weights, 0.0) for rows, stage in zip(soft, view.stages)]
        targets = _Targets(rois, [], [])
        changed = view.map_stages(
            lambda stage: replace(
                stage, cls_weights=torch.where(soft[stage.stage], 0.0, stage.cls_weights)
            )
        )
        if self.rpn:
            changed = self._soften_anchors(changed, targets, context)
        context.shared[self.name] = targets
        if context.step % _SCALAR_PERIOD == 0:
            share = float(soft[0].float().sum() / max(len(soft[0]), 1))
            get_event_storage().put_scalar("soft_distillation/soft_rois", share)
        return replace(outputs, unlabeled=changed)

    def _soft_rois(self, view: ViewOutputs) -> Tensor:
        boxes = [roi.proposal_boxes.tensor for roi in view.rois]
        hard = [covered_by(own, pasted) for own, pasted in zip(boxes, self._pasted(view))]
        return ~torch.cat([torch.zeros_like(view.cls_weights[:0], dtype=torch.bool), *hard])

    @staticmethod
    def _pasted(view: ViewOutputs) -> List[Tensor]:
        """(P, 4) for each image: the boxes that are not the teacher's."""
        assert view.view.pseudo is not None
        return [
            row.gt_boxes.tensor[row.selected & (row.get(TEACHER_COLUMN) == 0)]
            for row in view.view.pseudo.instances
        ]

    @torch.no_grad()
    def _soften_anchors(
        self, view: ViewOutputs, targets: _Targets, context: StepContext
    ) -> ViewOutputs:
        assert context.teacher_outputs is not None
        rpn, maps = context.teacher.proposal_generator, context.teacher_outputs.maps
        targets.objectness.extend(objectness_of(rpn, maps, view.anchors))
        anchors = []
        for sampled, pasted in zip(view.anchors, self._pasted(view)):
            soft = ~covered_by(sampled.sampled_boxes, pasted)
            targets.anchors.append(torch.where(soft, sampled.cls_weights, 0.0))
            hard = torch.where(soft, 0.0, sampled.cls_weights)
            anchors.append(replace(sampled, cls_weights=hard))
        return replace(view, anchors=anchors)

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        view = outputs.unlabeled
        if view is None:
            return {}
        targets: _Targets = context.shared[self.name]
        cls = [self._class_loss(s, rows, context) for s, rows in zip(view.stages, targets.rois)]
        losses = {"loss_cls_distilled": sum(cls[1:], cls[0])}
        if self.rpn:
            losses["loss_rpn_cls_distilled"] = self._rpn_loss(view, targets, context)
        if self.box_loss_weight > 0:
            reg = [self._box_loss(s, rows, context) for s, rows in zip(view.stages, targets.rois)]
            losses["loss_box_reg_distilled"] = self.box_loss_weight * sum(reg[1:], reg[0])
        return {name: self.loss_weight * loss for name, loss in losses.items()}

    def _class_loss(self, view: ViewOutputs, weights: Tensor, context: StepContext) -> Tensor:
        """The mean over the RoIs of one stage."""
        teacher = judge_rois(view, context)
        wanted = sharpened(teacher.predictions.logits, self.temperature)
        cls = soft_cross_entropy(view.predictions.logits, wanted)
        return (cls * weights).sum() / max(len(weights), 1)

    @staticmethod
    def _rpn_loss(view: ViewOutputs, targets: _Targets, context: StepContext) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(
            torch.cat([sampled.logits for sampled in view.anchors]),
            torch.cat(targets.objectness),
            weight=torch.cat(targets.anchors),
            reduction="sum",
        )
        rpn = context.student.proposal_generator
        weight = rpn.loss_weight.get("loss_rpn_cls", 1.0)
        return weight * loss / (rpn.batch_size_per_image * len(view.anchors))

    @staticmethod
    def _box_loss(view: ViewOutputs, weights: Tensor, context: StepContext) -> Tensor:
        """The mean over the RoIs of one stage. It compares the deltas of the class that the teacher
        finds most probable.
        """
        teacher = judge_rois(view, context)
        sure = 1.0 - teacher.probabilities[:, -1]
        best = teacher.probabilities[:, :-1].argmax(dim=1)
        ours = foreground_deltas(view.predictions.deltas, best)
        theirs = foreground_deltas(teacher.predictions.deltas, best)
        loss = F.smooth_l1_loss(ours, theirs, reduction="none", beta=1.0).sum(dim=1)
        return (loss * sure * (weights > 0)).sum() / max(len(weights), 1)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        targets: Optional[_Targets] = context.shared.get(self.name)
        if targets is None or pseudo is None:
            return 0.0
        return (targets.rois[0] > 0).sum() / max(len(pseudo.instances), 1)

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.hosts.report import scalar_section

        titles = {"soft_rois": "Share of RoIs that are distilled"}
        return scalar_section(run, "Soft distillation", "soft_distillation", titles)
