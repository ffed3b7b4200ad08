"""A Faster R-CNN in the training step: the teacher's labels, the student's pass and its losses."""

from __future__ import annotations

from typing import Dict, List

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from ssod.detectors.base import Capability, Detector
from ssod.detectors.features import extract_features, keep_running_statistics
from ssod.detectors.outputs import Outputs, TeacherOutputs
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import classify, detect, roi_losses, sample_rois
from ssod.detectors.rcnn.rpn import rpn_losses, run_rpn
from ssod.detectors.rcnn.supported import unsupported_part
from ssod.detectors.registry import register_detector
from ssod.errors import UserError
from ssod.structures import Views


@register_detector
class FasterRCNN(Detector):
    """Drives a box-only `GeneralizedRCNN` of Detectron2's standard parts.

    Args:
        student: it is called and never copied. cls_loss, focal_gamma: of the RoI classifier,
            "cross_entropy" or "focal".
    """

    family = "Faster R-CNN"
    capabilities = frozenset(
        {
            Capability.WEIGHTS,
            Capability.ROWS,
            Capability.SOFTMAX_ROWS,
            Capability.MAPS,
            Capability.REGIONS,
        }
    )

    def __init__(self, student: GeneralizedRCNN, *, cls_loss: str, focal_gamma: float) -> None:
        if cls_loss not in ("cross_entropy", "focal"):
            raise UserError(f"SSOD.ROI_CLS_LOSS is {cls_loss!r}: use 'cross_entropy' or 'focal'.")
        self.student = student
        self.cls_loss, self.focal_gamma = cls_loss, focal_gamma

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """A Faster R-CNN whose every part is the one that the step calls."""
        return unsupported_part(model) is None

    @classmethod
    def from_config(cls, cfg: CfgNode, student: GeneralizedRCNN) -> "FasterRCNN":
        """With the RoI loss that the config names."""
        return cls(student, cls_loss=cfg.SSOD.ROI_CLS_LOSS, focal_gamma=cfg.SSOD.FOCAL_GAMMA)

    def detect(self, model: GeneralizedRCNN, images: List[Tensor], floor: float) -> TeacherOutputs:
        """The teacher's features, proposals, predictions and detections."""
        maps = extract_features(model, images)
        proposals, _ = run_rpn(model.proposal_generator, maps)
        boxes = [proposal.proposal_boxes for proposal in proposals]
        predictions = classify(model.roi_heads, maps, boxes)
        found = detect(model.roi_heads, proposals, predictions, floor)
        return TeacherOutputs(maps, proposals, predictions, found)

    def run(self, views: Views) -> Outputs:
        """One batched forward over both streams, one more for each method's extra images."""
        student, heads = self.student, self.student.roi_heads
        streams = [views.labeled] + ([views.unlabeled] if views.unlabeled else [])
        images = [image for view in streams for image in view.images]
        targets = [target for view in streams for target in view.targets]
        maps = extract_features(student, images)
        rpn_targets = [target for view in streams for target in view.rpn_targets or view.targets]
        proposals, anchors = run_rpn(student.proposal_generator, maps, rpn_targets)
        rois = sample_rois(heads, proposals, targets)
        first = 0
        for view in streams:
            last = first + len(view.images)
            if view.sample_rois is not None:
                rois[first:last] = view.sample_rois(proposals[first:last], targets[first:last])
            first = last
        predictions = classify(heads, maps, [roi.proposal_boxes for roi in rois])

        empty = predictions.logits.new_zeros(0)
        parts, first, first_roi = [], 0, 0
        for view in streams:
            last = first + len(view.images)
            own = rois[first:last]
            rows = slice(first_roi, first_roi + sum(len(roi) for roi in own))
            parts.append(
                ViewOutputs(
                    view=view,
                    maps=maps.select(first, last),
                    proposals=proposals[first:last],
                    anchors=anchors[first:last],
                    rois=own,
                    predictions=predictions[rows],
                    # `empty` for a stream without images in this micro-batch.
                    cls_weights=torch.cat([empty] + [roi.gt_roi_cls_weight for roi in own]),
                    reg_weights=torch.cat([empty] + [roi.gt_roi_reg_weight for roi in own]),
                )
            )
            first, first_roi = last, rows.stop
        extra = {}
        for name, extra_images in views.extra.items():
            with keep_running_statistics(student):
                extra[name] = extract_features(student, extra_images)
        return Outputs(parts[0], parts[1] if len(parts) > 1 else None, extra)

    def losses(self, outputs: ViewOutputs) -> Dict[str, Tensor]:
        """Those of the RPN and of the RoI head."""
        losses = rpn_losses(self.student.proposal_generator, outputs.anchors)
        losses.update(
            roi_losses(
                self.student.roi_heads,
                outputs.rois,
                outputs.predictions,
                outputs.cls_weights,
                outputs.reg_weights,
                self.cls_loss,
                self.focal_gamma,
            )
        )
        return losses
