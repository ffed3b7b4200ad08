"""Soft Teacher (Xu et al., ICCV 2021) as a Method. It weighs the background, and regresses boxes on
which the teacher is steady.

Shapes: N images, M labels of one image, J jittered copies, R RoIs over all images, K foreground
classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.cascade import judge_boxes, run_stages
from ssod.detectors.rcnn.losses import foreground_deltas
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import roi_losses, sample_rois
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.hosts.reliability import box_deviation, jitter_boxes, soft_background_weights
from ssod.methods.selection import check_rpn_threshold, count_per_image, rpn_masks
from ssod.methods.shared.teacher_judgement import judge_rois
from ssod.ranges import NOT_NEGATIVE
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

# Steps between two values of a metric. Each value waits for the GPU.
_SCALAR_PERIOD = 20


@METHOD_REGISTRY.register()
class SoftTeacher(Method):
    """Selects pseudo-labels for classification and box regression separately, each with its own
    RoIs.

    Classification (the main branch) uses labels with `score > score_threshold`. Every other RoI is
    background, weighted by the teacher's background score of the same box
    (`soft_background_weights`). The RPN may have a threshold of its own.

    Box regression uses labels with `score > reg_score_threshold` whose `box_deviation` is below
    `max_deviation`, selected or not. They have `roi_reg_weight` 1. RoIs are matched and sampled
    again for them, and the main branch's own regression is switched off. The RPN regresses the
    selected labels that are also reliable.

    Args:
        score_threshold, reg_score_threshold, max_deviation: see above. rpn_score_threshold:
            threshold of the RPN's labels. 0: `score_threshold`.
        num_jitters: J. jitter: the largest offset in widths and heights. unsup_loss_weight:
            lambda_u.
    """

    config_key = "SOFT_TEACHER"
    ranges = {"JITTER": NOT_NEGATIVE, "MAX_DEVIATION": NOT_NEGATIVE}
    groups = ("pseudo-box regression", "weights of background")
    excludes = ("pseudo-box regression", "weights of background", "moved images")
    regresses_pseudo_boxes = True
    selection_key = "SSOD.SOFT_TEACHER.SCORE_THRESHOLD"
    selects_pseudo_labels = True
    needs_online_teacher = True
    activity_unit = "labels that classify or regress, per image"

    def __init__(
        self,
        *,
        score_threshold: float,
        rpn_score_threshold: float,
        reg_score_threshold: float,
        max_deviation: float,
        num_jitters: int,
        jitter: float,
        unsup_loss_weight: float,
    ) -> None:
        super().__init__()
        for key, value in (
            ("SCORE_THRESHOLD", score_threshold),
            ("REG_SCORE_THRESHOLD", reg_score_threshold),
        ):
            if not 0.0 <= value <= 1.0:
                raise UserError(f"SSOD.SOFT_TEACHER.{key} is {value}: use a score between 0 and 1.")
        if num_jitters < 2:
            raise UserError(
                f"SSOD.SOFT_TEACHER.NUM_JITTERS is {num_jitters}: use 2 or more, or there is no deviation."
            )
        check_rpn_threshold("SSOD.SOFT_TEACHER", rpn_score_threshold)
        self.score_threshold = score_threshold
        self.rpn_score_threshold = rpn_score_threshold
        self.reg_score_threshold = reg_score_threshold
        self.max_deviation = max_deviation
        self.num_jitters = num_jitters
        self.jitter = jitter
        self.unsup_loss_weight = unsup_loss_weight

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = CfgNode()
        node.SCORE_THRESHOLD = 0.9  # of labels that train the classification
        node.RPN_SCORE_THRESHOLD = 0.0  # of the RPN's labels alone; 0: SCORE_THRESHOLD
        node.REG_SCORE_THRESHOLD = 0.5  # of labels that may regress
        node.MAX_DEVIATION = 0.02  # of the teacher's refinements, in widths and heights
        node.NUM_JITTERS = 10
        node.JITTER = 0.06  # largest offset, in widths and heights
        cfg.SSOD.SOFT_TEACHER = node

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        values = {key.lower(): value for key, value in cfg.SSOD.SOFT_TEACHER.items()}
        return {**values, "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT}

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        node = cfg.SSOD.SOFT_TEACHER
        node.REG_SCORE_THRESHOLD, node.MAX_DEVIATION = low, 1.0

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        reliable = self._reliable(pseudo, context)
        if context.step % _SCALAR_PERIOD == 0:
            mean = sum(float(mask.sum()) for mask in reliable) / len(reliable)
            get_event_storage().put_scalar("soft_teacher/regressed_boxes_per_image", mean)
        weights = [mask.to(row.scores.dtype) for mask, row in zip(reliable, pseudo.instances)]
        columns = [{"rpn_reg_weight": weight, "roi_reg_weight": weight} for weight in weights]
        chosen = [row.scores > self.score_threshold for row in pseudo.instances]
        masks = rpn_masks(pseudo, self.rpn_score_threshold)
        return pseudo.with_columns(columns).select(chosen, masks)

    def _reliable(self, pseudo: PseudoLabels, context: StepContext) -> List[Tensor]:
        """Which labels are regressed, one bool (M,) for each image."""
        assert context.teacher_outputs is not None
        heads = context.teacher.roi_heads
        rows = [(r.scores > self.reg_score_threshold).nonzero().flatten() for r in pseudo.instances]
        candidates = [row[index] for row, index in zip(pseudo.instances, rows)]
        jittered = []
        for row, sample in zip(candidates, context.batch.unlabeled):
            # The seed depends only on the sample, so that hooks may call `refine` without changing
            # training.
            generator = torch.Generator().manual_seed(sample.ref.position)
            draws = torch.rand((self.num_jitters, len(row), 4), generator=generator) * 2 - 1
            boxes = row.gt_boxes.tensor
            jittered.append(jitter_boxes(boxes, draws.to(boxes), self.jitter))
        found = judge_boxes(
            heads, context.teacher_outputs.maps, [Boxes(boxes.flatten(0, 1)) for boxes in jittered]
        )
        masks, first = [], 0
        transform = box_stage(heads).box_predictor.box2box_transform
        for instances, row, index, boxes in zip(pseudo.instances, candidates, rows, jittered):
            part = slice(first, first + boxes.shape[0] * boxes.shape[1])
            first = part.stop
            deltas = foreground_deltas(found.deltas[part], row.gt_classes.repeat(self.num_jitters))
            refined = Boxes(transform.apply_deltas(deltas, boxes.flatten(0, 1)))
            refined.clip(instances.image_size)
            deviation = box_deviation(refined.tensor.view_as(boxes), row.gt_boxes.tensor)
            mask = torch.zeros_like(instances.selected)
            mask[index] = deviation < self.max_deviation
            masks.append(mask)
        return masks

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        view = outputs.unlabeled
        if view is None:
            return outputs
        weighted = view.map_stages(lambda stage: self._weigh_stage(stage, context))
        return replace(outputs, unlabeled=weighted)

    def _weigh_stage(self, view: ViewOutputs, context: StepContext) -> ViewOutputs:
        factor = self._background_factor(view, context)
        return replace(
            view,
            cls_weights=view.cls_weights * factor,
            reg_weights=torch.zeros_like(view.reg_weights),  # `losses` has its own assignment
        )

    @torch.no_grad()
    def _background_factor(self, view: ViewOutputs, context: StepContext) -> Tensor:
        """(R,): `soft_background_weights` of background RoIs, 1 of the others."""
        # The two views share their geometry, so the student's boxes have the same place in the
        # teacher's maps.
        scores = judge_rois(view, context).probabilities[:, -1]
        background = view.predictions.logits.shape[1] - 1
        rows = (view.labels == background).nonzero().flatten()
        if context.step % _SCALAR_PERIOD == 0 and view.stage == 0:
            mean = scores[rows].sum() / max(len(rows), 1)
            get_event_storage().put_scalar("soft_teacher/background_score", float(mean))
        weights = soft_background_weights(scores[rows], view.image_index[rows], len(view.rois))
        return torch.ones_like(scores).index_copy(0, rows, weights)

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        view = outputs.unlabeled
        if view is None:
            return {}
        labels = view.view.pseudo
        assert labels is not None
        heads = context.student.roi_heads
        # These are the labels of the strong view, to which other methods have added pasted objects.
        regressing = labels.with_columns(
            [{"selected": row.roi_reg_weight > 0} for row in labels.instances]
        )
        targets = regressing.to_targets()
        # Detectron2's sampling counts RoIs under names that belong to the main branch.
        with EventStorage():
            rois = sample_rois(box_stage(heads), view.proposals, targets)
            count = sum(len(roi) for roi in rois)
            rois = [roi[roi.gt_classes < heads.num_classes] for roi in rois]
            stages = run_stages(heads, view.maps, rois, targets)
        parts = []
        for number, stage in enumerate(stages):
            weights = torch.cat([roi.gt_roi_reg_weight for roi in stage.rois])
            found = roi_losses(
                box_stage(heads, number),
                stage.rois,
                stage.predictions,
                torch.zeros_like(weights),
                weights,
                "cross_entropy",
                0.0,
            )
            # The loss is divided by all sampled RoIs, although only the foreground has gone through
            # the head.
            share = len(weights) / max(count, 1)
            parts.append(self.unsup_loss_weight * share * found["loss_box_reg"])
        return {"loss_box_reg_reliable": sum(parts[1:], parts[0])}

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        if pseudo is None:
            return 0.0
        rows = pseudo.instances
        return count_per_image([row.selected | (row.roi_reg_weight > 0) for row in rows])

    def inert_reason(self, period: InertPeriod) -> str:
        key = "SSOD.SOFT_TEACHER.SCORE_THRESHOLD"
        return period.no_score_passes(self.score_threshold, key) or super().inert_reason(period)

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.hosts.report import scalar_section

        titles = {
            "regressed_boxes_per_image": "Pseudo-boxes that regress, per image",
            "background_score": "Teacher's background score of background RoIs",
        }
        return scalar_section(run, "Soft Teacher", "soft_teacher", titles)
