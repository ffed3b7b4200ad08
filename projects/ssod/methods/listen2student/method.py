"""Listen2Student: a side of a pseudo-box regresses where the teacher knows it better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ssod.detectors.base import Capability
from ssod.detectors.dense.outputs import DenseOutputs
from ssod.detectors.dense.pairing import foreign_labels, teacher_rows
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.listen2student.head import SideUncertainty
from ssod.methods.listen2student.losses import better_sides, box_sides, power_likelihood_loss
from ssod.methods.shared.dense_trial import use_retinanet
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

_NODE = "SSOD.LISTEN2STUDENT"


@METHOD_REGISTRY.register()
class Listen2Student(Method):
    """A branch predicts the uncertainty of each side of a box, in student and teacher.

    It learns on labelled images. At locations that are matched with a pseudo-label the student
    regresses the teacher's side where the teacher's uncertainty is low and lower than its own.

    Args:
        margin: by how much lower. certainty: least value of 1 - the teacher's uncertainty.
        uncertainty_weight: of the branch's loss on labelled images. reg_weight: of the regression
            on unlabelled ones, lambda_u included.
    """

    config_key = "LISTEN2STUDENT"
    needs = (Capability.DENSE,)
    needs_online_teacher = True
    groups = ("pseudo-box regression",)
    excludes = ("pseudo-box regression", "dense labels", "moved images")
    regresses_pseudo_boxes = True
    activity_unit = "sides that regress, per image"

    def __init__(
        self, *, margin: float, certainty: float, uncertainty_weight: float, reg_weight: float
    ) -> None:
        super().__init__()
        for key, value in {"MARGIN": margin, "CERTAINTY": certainty}.items():
            if not 0 <= value <= 1:
                raise UserError(f"{_NODE}.{key} is {value}: use a number between 0 and 1.")
        for key, value in {
            "UNCERTAINTY_WEIGHT": uncertainty_weight,
            "REG_WEIGHT": reg_weight,
        }.items():
            if value < 0:
                raise UserError(f"{_NODE}.{key} is {value}: use 0 or more.")
        self.margin, self.certainty = margin, certainty
        self.uncertainty_weight, self.reg_weight = uncertainty_weight, reg_weight

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.LISTEN2STUDENT = CfgNode()
        # The teacher's uncertainty must be lower than the student's by so much.
        node.MARGIN = 0.1
        # Least certainty of the teacher, 1 - its uncertainty.
        node.CERTAINTY = 0.8
        # Of the loss that trains the branch on labelled images.
        node.UNCERTAINTY_WEIGHT = 0.05
        # Times SSOD.UNSUP_LOSS_WEIGHT: published with 3.
        node.REG_WEIGHT = 0.2

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.LISTEN2STUDENT
        return {
            "margin": node.MARGIN,
            "certainty": node.CERTAINTY,
            "uncertainty_weight": node.UNCERTAINTY_WEIGHT,
            "reg_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT * node.REG_WEIGHT,
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        use_retinanet(cfg, 1.1 * high)
        cfg.SSOD.LISTEN2STUDENT.CERTAINTY = 0.0  # untrained branches say 0.5 for all sides
        cfg.SSOD.LISTEN2STUDENT.MARGIN = 0.0

    def attach(self, student: Any) -> None:
        regressor: nn.Conv2d = student.head.bbox_pred
        self.add_head(
            student,
            SideUncertainty(regressor.in_channels, regressor.out_channels // 4).to(
                regressor.weight.device
            ),
        )

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        losses: Dict[str, Tensor] = {}
        if outputs.labeled.view.images:
            losses["loss_side_uncertainty"] = self._supervised(outputs.labeled, context)
        if outputs.unlabeled is not None and context.teacher_outputs is not None:
            assert pseudo is not None
            losses["loss_sides_unlabeled"] = self._unsupervised(outputs.unlabeled, pseudo, context)
        return losses

    def _supervised(self, view: DenseOutputs, context: StepContext) -> Tensor:
        rows = view.foreground
        uncertainty = context.student.ssod_heads[self.name](view.predictions)[rows]
        anchors, boxes = self._boxes(view, rows, context.student)
        wanted = view.gt_boxes[rows]
        with torch.no_grad():
            ious = matched_pairwise_iou(Boxes(boxes), Boxes(wanted))
        loss = power_likelihood_loss(
            box_sides(boxes, anchors), uncertainty, box_sides(wanted, anchors), ious
        )
        return self.uncertainty_weight * loss.sum() / max(len(rows), 1)

    def _unsupervised(
        self, view: DenseOutputs, pseudo: PseudoLabels, context: StepContext
    ) -> Tensor:
        assert context.teacher_outputs is not None
        teacher = context.teacher_outputs.predictions
        theirs, known = teacher_rows(view, teacher)
        usable = known & (view.rows.label_index >= 0) & ~foreign_labels(view, pseudo)
        rows = usable.nonzero().flatten()
        theirs = theirs[rows]
        anchors, boxes = self._boxes(view, rows, context.student)
        with torch.no_grad():
            mine = context.student.ssod_heads[self.name](view.predictions)[rows]
            other = context.teacher.ssod_heads[self.name](teacher)[theirs]
            better = better_sides(other, mine, self.margin, self.certainty)
            transform = context.student.box2box_transform
            wanted = transform.apply_deltas(teacher.flat("deltas")[theirs], anchors)
            wanted = box_sides(wanted, anchors)
        count = better.sum()
        context.shared[self.name] = count / max(len(view.view.images), 1)
        share = float(better.float().mean()) if len(rows) else 0.0
        get_event_storage().put_scalar("listen2student/share_of_sides", share)
        distance = (box_sides(boxes, anchors) - wanted).abs()
        return self.reg_weight * (distance * better).sum() / count.clamp(min=1)

    @staticmethod
    def _boxes(view: DenseOutputs, rows: Tensor, student: Any) -> Any:
        """(F, 4) anchors and predicted boxes of some rows."""
        groups = view.predictions.groups
        anchors = torch.cat([g.anchors.repeat(len(g.indices), 1) for g in groups])[rows]
        deltas = view.predictions.flat("deltas")[rows]
        return anchors, student.box2box_transform.apply_deltas(deltas, anchors)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return context.shared.get(self.name, 0.0)

    def inert_reason(self, period: InertPeriod) -> str:
        if not period.selected:
            return super().inert_reason(period)
        return (
            f"the teacher is nowhere certain ({self.certainty:g}) and {self.margin:g} less uncertain than the student; lower "
            f"{_NODE}.CERTAINTY or {_NODE}.MARGIN, or train longer before mutual learning (SSOD.BURN_IN_STEPS)"
        )

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.hosts.report import scalar_section

        title = "Share of the sides of matched locations that regress"
        return scalar_section(run, "Listen2Student", "listen2student", {"share_of_sides": title})
