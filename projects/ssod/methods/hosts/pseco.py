"""PseCo (Li et al., ECCV 2022) as a Method. It assigns by predictions, votes on boxes and is
consistent over scales.

Shapes: N images, P proposals and M pseudo-labels of one image, R RoIs over all images, K foreground
classes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.cascade import stage_losses
from ssod.detectors.rcnn.losses import foreground_deltas
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import BoxPredictions, classify, roi_losses
from ssod.detectors.rcnn.rpn import rpn_losses, run_rpn
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.hosts.assignment import (
    candidate_labels,
    consistency_votes,
    prediction_guided_assignment,
)
from ssod.methods.hosts.second_view import align_levels
from ssod.methods.selection import selected_per_image
from ssod.methods.shared.half_size import HALF_SIZE, add_half_size_view, idle_gradient
from ssod.structures import WEIGHT_COLUMNS, PseudoLabels, Views

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

# Steps between two values of a metric. Each value waits for the GPU.
_SCALAR_PERIOD = 20
# The index of the label in its image that a RoI was assigned to, -1 for background.


@METHOD_REGISTRY.register()
class PseCo(Method):
    """Selects labels with `score > score_threshold`; predictions assign and weigh their RoIs.

    Unlabelled RoIs are the teacher's proposals, assigned by `prediction_guided_assignment` on the
    teacher's predictions. Box regression is weighted by `consistency_votes` on the student's
    predictions. The student learns the same RoIs, and the RPN's loss, once more on the image at
    half its size (`align_levels`).

    Args:
        score_threshold: see above. candidate_iou: least IoU of a proposal with a label that it may
            learn. top_candidates: `top` of PLA.
        unsup_loss_weight: lambda_u. cls_loss, focal_gamma: the main branch's RoI classification
            loss.
    """

    config_key = "PSECO"
    former_config_keys = ("PSE_CO",)
    groups = ("pseudo-box regression", "main labels at half size", "teacher's RoIs")
    excludes = ("pseudo-box regression", "main labels at half size")
    regresses_pseudo_boxes = True
    selection_key = "SSOD.PSECO.SCORE_THRESHOLD"
    selects_pseudo_labels = True
    needs_online_teacher = True
    activity_unit = "labels selected, per image"

    def __init__(
        self,
        *,
        score_threshold: float,
        candidate_iou: float,
        top_candidates: int,
        unsup_loss_weight: float,
        cls_loss: str,
        focal_gamma: float,
    ) -> None:
        super().__init__()
        for key, value in (("SCORE_THRESHOLD", score_threshold), ("CANDIDATE_IOU", candidate_iou)):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"SSOD.PSECO.{key} is {value}: use a number from 0 to 1.")
        if top_candidates < 1:
            raise UserError(f"SSOD.PSECO.TOP_CANDIDATES is {top_candidates}: use 1 or more.")
        self.score_threshold = score_threshold
        self.candidate_iou = candidate_iou
        self.top_candidates = top_candidates
        self.unsup_loss_weight = unsup_loss_weight
        self.cls_loss = cls_loss
        self.focal_gamma = focal_gamma

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = CfgNode()
        node.SCORE_THRESHOLD = 0.5
        node.CANDIDATE_IOU = 0.4  # least IoU of a proposal with a label that it may learn
        node.TOP_CANDIDATES = 12  # IoUs whose sum is a label's number of positive proposals
        cfg.SSOD.PSECO = node

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        values = {key.lower(): value for key, value in cfg.SSOD.PSECO.items()}
        return {
            **values,
            "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT,
            "cls_loss": cfg.SSOD.ROI_CLS_LOSS,
            "focal_gamma": cfg.SSOD.FOCAL_GAMMA,
        }

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        ones = [torch.ones_like(row.scores) for row in pseudo.instances]
        chosen = [row.scores > self.score_threshold for row in pseudo.instances]
        columns = [{"rpn_reg_weight": one, "roi_reg_weight": one} for one in ones]
        return pseudo.with_columns(columns).select(chosen)

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        if views.unlabeled is None:
            return views
        unlabeled = replace(views.unlabeled, sample_rois=partial(self._sample_rois, context))
        return add_half_size_view(replace(views, unlabeled=unlabeled))

    @torch.no_grad()
    def _sample_rois(
        self, context: StepContext, student_proposals: List[Instances], targets: List[Instances]
    ) -> List[Instances]:
        """Samples RoIs from the teacher's proposals. Other methods may use the student's."""
        found = context.teacher_outputs
        assert found is not None
        heads = box_stage(context.teacher.roi_heads)
        rois, first = [], 0
        for proposals, target in zip(found.proposals, targets):
            rows = slice(first, first + len(proposals))
            first = rows.stop
            boxes = proposals.proposal_boxes.tensor
            own = self._assign(context.teacher, boxes, found.predictions[rows], target)
            # If no proposal is near a label, the label's own box is added. Pasted objects need
            # this.
            missing = torch.ones(len(target), dtype=torch.bool, device=own.device)
            missing[own[own >= 0]] = False
            alone = missing.nonzero().flatten()
            boxes = torch.cat([boxes, target.gt_boxes.tensor[alone]])
            rois.append(
                _sampled(
                    target,
                    boxes,
                    torch.cat([own, alone]),
                    heads.num_classes,
                    heads.batch_size_per_image,
                    heads.positive_fraction,
                )
            )
        return rois

    def _assign(
        self, teacher: GeneralizedRCNN, boxes: Tensor, found: BoxPredictions, target: Instances
    ) -> Tensor:
        """(P,) index of the label that each of the teacher's proposals (P, 4) learns, -1 for no
        label.
        """
        labels = target.gt_boxes.tensor
        candidates = candidate_labels(boxes, labels, self.candidate_iou)
        if len(labels) == 0:
            return candidates
        nearest = candidates.clamp(min=0)
        classes = target.gt_classes[nearest]
        predictor = box_stage(teacher.roi_heads).box_predictor
        scores = predictor.predict_probs((found.logits, found.deltas), [Boxes(boxes)])[0]
        scores = scores.gather(1, classes[:, None])[:, 0]
        transform = predictor.box2box_transform
        refined = Boxes(transform.apply_deltas(foreground_deltas(found.deltas, classes), boxes))
        refined.clip(target.image_size)
        ious = matched_pairwise_iou(refined, Boxes(labels[nearest]))
        return prediction_guided_assignment(
            candidates, scores, ious, len(labels), self.top_candidates
        )

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        view = outputs.unlabeled
        if view is None:
            return outputs
        weighted = view.map_stages(lambda stage: self._vote(stage, context))
        return replace(outputs, unlabeled=weighted)

    @torch.no_grad()
    def _vote(self, view: ViewOutputs, context: StepContext) -> ViewOutputs:
        """Weighs box regression by `consistency_votes` on this stage's RoIs."""
        predictor = box_stage(context.student.roi_heads, view.stage).box_predictor
        counts = [len(target) for target in view.view.targets]
        starts = torch.tensor([sum(counts[:i]) for i in range(len(counts))])
        labels = torch.cat([roi.gt_index for roi in view.rois])
        rows = (labels >= 0).nonzero().flatten()
        labels = (labels + starts.to(labels.device)[view.image_index])[rows]
        boxes = torch.cat([roi.proposal_boxes.tensor for roi in view.rois])[rows]
        wanted = torch.cat([roi.gt_boxes.tensor for roi in view.rois])[rows]
        deltas = foreground_deltas(view.predictions.deltas[rows], view.labels[rows])
        predicted = predictor.box2box_transform.apply_deltas(deltas, boxes)
        ious = matched_pairwise_iou(Boxes(predicted), Boxes(wanted))
        votes = consistency_votes(ious, labels, sum(counts))
        if context.step % _SCALAR_PERIOD == 0 and view.stage == 0:
            storage = get_event_storage()
            storage.put_scalar("pseco/positive_rois_per_image", len(rows) / len(view.rois))
            storage.put_scalar("pseco/vote", float(votes.sum()) / max(len(rows), 1))
        factor = torch.ones_like(view.reg_weights).index_copy(0, rows, votes)
        return replace(view, reg_weights=view.reg_weights * factor)

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        view = outputs.unlabeled
        if view is None:
            return {"loss_cls_pseco": idle_gradient(outputs)}
        heads, rpn = context.student.roi_heads, context.student.proposal_generator
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in view.view.images]
        names = {*heads.box_in_features, *rpn.in_features}
        maps = align_levels(outputs.extra[HALF_SIZE], names, sizes)
        with (
            EventStorage()
        ):  # Detectron2's sampling counts anchors under names that belong to the main branch
            _, anchors = run_rpn(rpn, maps, view.view.rpn_targets or view.view.targets)
        losses = rpn_losses(rpn, anchors)
        for stage in view.stages:
            head = box_stage(heads, stage.stage)
            predictions = classify(head, maps, [roi.proposal_boxes for roi in stage.rois])
            found = roi_losses(
                head,
                stage.rois,
                predictions,
                stage.cls_weights,
                stage.reg_weights,
                self.cls_loss,
                self.focal_gamma,
            )
            losses.update(stage_losses(found, heads, stage.stage))
        return {f"{name}_pseco": self.unsup_loss_weight * loss for name, loss in losses.items()}

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return selected_per_image(pseudo)

    def inert_reason(self, period: InertPeriod) -> str:
        key = "SSOD.PSECO.SCORE_THRESHOLD"
        return period.no_score_passes(self.score_threshold, key) or super().inert_reason(period)

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.hosts.report import scalar_section

        titles = {
            "positive_rois_per_image": "Positive RoIs per unlabelled image",
            "vote": "Mean weight of box regression (consistency vote)",
        }
        return scalar_section(run, "PseCo", "pseco", titles)


def _sampled(
    target: Instances, boxes: Tensor, own: Tensor, background: int, most: int, fraction: float
) -> Instances:
    """Draws RoIs as Detectron2 does, and gives them the columns of `sample_rois`.

    Args:
        target: M labels. boxes: (P, 4). own: (P,) index of each box's label, -1 for background.
            background: K.
        most: largest number of RoIs. fraction: largest share of positive RoIs.
    """
    positive = own >= 0
    if len(target):
        classes = torch.where(positive, target.gt_classes[own.clamp(min=0)], background)
    else:
        classes = torch.full_like(own, background)
    kept = torch.cat(subsample_labels(classes, most, fraction, background))
    own, positive, boxes = own[kept], positive[kept], boxes[kept]
    rois = Instances(target.image_size)
    rois.proposal_boxes = Boxes(boxes)
    rois.gt_classes = classes[kept]
    rois.gt_index = own
    columns = {"gt_scores": 0.0, **{f"gt_{column}": 1.0 for column in WEIGHT_COLUMNS}}
    if len(target):
        index = own.clamp(min=0)
        wanted = torch.where(positive[:, None], target.gt_boxes.tensor[index], boxes)
        for column, value in columns.items():
            rois.set(column, torch.where(positive, target.get(column)[index], value))
    else:
        wanted = boxes
        for column, value in columns.items():
            rois.set(column, boxes.new_full((len(boxes),), value))
    rois.gt_boxes = Boxes(wanted)
    return rois
