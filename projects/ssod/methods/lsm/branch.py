"""A second branch on half-size images, the base of PIM and MLC (LSM, section 3.3).

This module has the branch for box heads. paired.py has the branch for Deformable DETR.

The branch takes the strong unlabelled images at half their size and the main branch's RPN
proposals. It matches and samples the proposals with its own labels and pools them shift-aligned
(half_size.py).

Shapes: N images, R sampled RoIs over all of them, K foreground classes, D box-head channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from ssod.detectors.base import Capability
from ssod.detectors.detr.meta_arch import TransformerDetector
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.roi_heads import BoxPredictions, roi_losses, sample_rois
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import Method, StepContext
from ssod.methods.lsm.paired import PairedOutputs, paired_losses, run_paired
from ssod.methods.shared.half_size import (
    HALF_SIZE,
    add_half_size_view,
    half_size_box_features,
    half_size_levels,
    idle_gradient,
    pooling_levels,
)
from ssod.structures import PseudoLabels, Views, make_targets


@dataclass
class BranchOutputs:
    """The branch's RoIs and predictions in one step.

    Attributes:
        rois: N `Instances` of sampled RoIs (see `sample_rois`), boxes in pixels of the full-size
            images.
        predictions: predictions for these R RoIs.
        sampled: number of sampled RoIs, including those of disabled maps. Every loss of the branch
            is divided by it.
    """

    rois: List[Instances]
    predictions: BoxPredictions
    sampled: int

    @property
    def scores(self) -> Tensor:
        """(R,) score of each RoI's matched pseudo-label, 0 for background."""
        return torch.cat([roi.gt_scores for roi in self.rois])


def branch_targets(
    pseudo: PseudoLabels, masks: Sequence[Tensor], all_regress: bool
) -> List[Instances]:
    """Training targets of the rows in `masks`, one bool (M,) for each image. They train the
    classification with their own weights.

    Args:
        all_regress: True: all labels are regressed, even if the main branch does not, as in
            Unbiased Teacher. False: they are regressed with their own weights, as in the main
            branch.
    """
    targets = []
    for row, mask in zip(pseudo.instances, masks):
        kept = row[mask]
        weights = {"roi_cls_weight": kept.roi_cls_weight}
        if not all_regress:
            weights["roi_reg_weight"] = kept.roi_reg_weight
        targets.append(
            make_targets(
                kept.image_size,
                kept.gt_boxes.tensor,
                kept.gt_classes,
                kept.scores,
                weights,
                kept.gt_masks if kept.has("gt_masks") else None,
            )
        )
    return targets


def drop_levels(rois: List[Instances], levels: Tensor, enabled: Sequence[bool]) -> List[Instances]:
    """Leaves out the RoIs of disabled maps.

    Args:
        rois: N `Instances`, R rows. levels: (R,) int64, the map of each. enabled: one entry for
            each map.
    """
    if all(enabled):
        return rois
    keep = torch.tensor(enabled, device=levels.device)[levels]
    return [roi[mask] for roi, mask in zip(rois, keep.split([len(roi) for roi in rois]))]


class HalfSizeBranch(Method):
    """Base class with the half-size view, its RoIs or queries, and their detection losses times
    `loss_weight * unsup_loss_weight`.

    Subclasses say which labels the branch learns (`masks`). They may replace the classifier
    (`logits`, or `class_heads` on a detector of queries).

    Args:
        loss_weight: weight of the branch. unsup_loss_weight: lambda_u, a further factor (Eq. 3).
        in_features: which of the `half_size_levels` take part. None: all of them. Queries look at
            all maps.
        cls_loss, focal_gamma: the main branch's RoI classification loss.
    """

    needs = ((Capability.REGIONS, Capability.PAIRED),)
    # Whether the branch also regresses labels that the main branch does not regress.
    all_regress = True

    def __init__(
        self,
        *,
        loss_weight: float,
        unsup_loss_weight: float,
        in_features: Optional[Sequence[str]],
        cls_loss: str,
        focal_gamma: float,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight * unsup_loss_weight
        self.in_features = in_features
        self.cls_loss = cls_loss
        self.focal_gamma = focal_gamma
        # The half-size maps, and which of them take part.
        self.levels: List[str] = []
        self.enabled: List[bool] = []
        self.idles_in_burn_in = False
        # Whether the detector matches queries instead of sampling RoIs.
        self.paired = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT,
            "cls_loss": cfg.SSOD.ROI_CLS_LOSS,
            "focal_gamma": cfg.SSOD.FOCAL_GAMMA,
        }

    def attach(self, student: Any) -> None:
        self.paired = isinstance(student, TransformerDetector)
        if self.paired:
            return
        names = list(student.roi_heads.box_in_features)
        self.levels = half_size_levels(names, student.backbone.output_shape())
        chosen = self.levels if self.in_features is None else list(self.in_features)
        if not chosen or not set(chosen) <= set(self.levels):
            raise UserError(
                f"SSOD.{self.name}.IN_FEATURES is {chosen}: name some of {', '.join(self.levels)}, whose half-size maps stand "
                f"in for the box head's {', '.join(names)}."
            )
        self.enabled = [name in chosen for name in self.levels]
        self.idles_in_burn_in = self.levels[0] not in {
            *names,
            *student.proposal_generator.in_features,
        }

    def masks(self, pseudo: PseudoLabels, context: StepContext) -> List[Tensor]:
        """Which labels of the strong view the branch learns, one bool (M,) for each image."""
        raise NotImplementedError

    def logits(self, predictor: FastRCNNOutputLayers, features: Tensor) -> Tensor:
        """(R, K+1) class logits of box-head features (R, D). The main branch's classifier unless
        overridden.
        """
        return predictor.cls_score(features)

    def class_heads(self) -> Optional[nn.ModuleList]:
        """The classifier of each decoder layer. None: the main branch's."""
        return None

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        return add_half_size_view(views)

    def run(self, outputs: Outputs, context: StepContext) -> BranchOutputs:
        """The branch's RoIs and predictions, computed at the first call of a step."""
        if self.name not in context.shared:
            context.shared[self.name] = self._run(outputs, context)
        return context.shared[self.name]

    def run_paired(self, outputs: Outputs, context: StepContext) -> PairedOutputs:
        """The same as `run`, for a detector of queries."""
        if self.name not in context.shared:
            targets = self._targets(outputs, context)
            context.shared[self.name] = run_paired(
                context.student.criterion, outputs, targets, self.class_heads()
            )
        return context.shared[self.name]

    def _targets(self, outputs: Outputs, context: StepContext) -> List[Instances]:
        view = outputs.unlabeled
        assert view is not None and view.view.pseudo is not None
        # The labels come from the view rather than from the teacher, because the view's labels
        # include pasted objects.
        masks = self.masks(view.view.pseudo, context)
        return branch_targets(view.view.pseudo, masks, self.all_regress)

    def _run(self, outputs: Outputs, context: StepContext) -> BranchOutputs:
        view = outputs.unlabeled
        assert view is not None
        heads = box_stage(context.student.roi_heads)  # the first stage of a cascade
        targets = self._targets(outputs, context)
        # Sampling counts RoIs under names that belong to the main branch.
        with EventStorage():
            rois = sample_rois(heads, view.proposals, targets)
        levels = pooling_levels(heads, self.levels, [roi.proposal_boxes for roi in rois])
        sampled = sum(len(roi) for roi in rois)
        rois = drop_levels(rois, levels, self.enabled)
        boxes = [roi.proposal_boxes for roi in rois]
        features = half_size_box_features(heads, outputs.extra[HALF_SIZE], self.levels, boxes)
        flat = features.flatten(1)
        predictor = heads.box_predictor
        logits, deltas = self.logits(predictor, flat), predictor.bbox_pred(flat)
        return BranchOutputs(
            rois, BoxPredictions(features, logits.float(), deltas.float()), sampled
        )

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        name = self.name.lower()
        if outputs.unlabeled is None:
            return {f"loss_cls_{name}": idle_gradient(outputs)} if self.idles_in_burn_in else {}
        if self.paired:
            pairs = self.run_paired(outputs, context)
            get_event_storage().put_scalar(
                f"{name}/matched_queries_per_image", len(pairs.labels) / len(pairs.labels.counts)
            )
            losses = paired_losses(context.student.criterion, pairs)
            return {f"{key}_{name}": self.loss_weight * loss for key, loss in losses.items()}
        branch = self.run(outputs, context)
        losses = roi_losses(
            context.student.roi_heads,
            branch.rois,
            branch.predictions,
            torch.cat([roi.gt_roi_cls_weight for roi in branch.rois]),
            torch.cat([roi.gt_roi_reg_weight for roi in branch.rois]),
            self.cls_loss,
            self.focal_gamma,
        )
        # `roi_losses` divides by the RoIs that it is given.
        share = len(branch.scores) / max(branch.sampled, 1)
        foreground = (branch.scores > 0).float().sum() / len(branch.rois)
        get_event_storage().put_scalar(f"{name}/foreground_rois_per_image", float(foreground))
        return {f"{key}_{name}": self.loss_weight * share * loss for key, loss in losses.items()}
