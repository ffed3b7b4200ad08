"""Detectron2's two-stage detectors in the training step: the teacher's labels, the student's pass
and its losses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Dict, List

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from ssod.detectors.base import Capability, Detector
from ssod.detectors.features import extract_features, keep_running_statistics
from ssod.detectors.outputs import Outputs, TeacherOutputs
from ssod.detectors.rcnn.cascade import detect_regions, run_stages, stage_losses
from ssod.detectors.rcnn.masks import add_masks, mask_losses, run_masks
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import roi_losses, sample_rois
from ssod.detectors.rcnn.rpn import rpn_losses, run_rpn
from ssod.detectors.rcnn.stages import box_stage, is_cascade
from ssod.detectors.rcnn.supported import unsupported_part
from ssod.detectors.registry import register_detector
from ssod.errors import UserError
from ssod.structures import Views

_REGIONS = frozenset(
    {
        Capability.WEIGHTS,
        Capability.ROWS,
        Capability.SOFTMAX_ROWS,
        Capability.MAPS,
        Capability.REGIONS,
    }
)


class RegionCNN(Detector):
    """Drives a `GeneralizedRCNN` of Detectron2's standard parts: with one box head or a cascade,
    with a mask head or none.

    With a cascade, methods see the RoIs of the first stage. Methods that weigh RoIs weigh those of
    every stage.

    Args:
        student: it is called and never copied. cls_loss, focal_gamma: of the RoI classifiers,
            "cross_entropy" or "focal".
    """

    cascade: ClassVar[bool]
    masks: ClassVar[bool]

    def __init__(self, student: GeneralizedRCNN, *, cls_loss: str, focal_gamma: float) -> None:
        if cls_loss not in ("cross_entropy", "focal"):
            raise UserError(f"SSOD.ROI_CLS_LOSS is {cls_loss!r}: use 'cross_entropy' or 'focal'.")
        self.student = student
        self.cls_loss, self.focal_gamma = cls_loss, focal_gamma

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """A model of this family whose every part is the one that the step calls."""
        if unsupported_part(model) is not None:
            return False
        heads: Any = model.roi_heads
        return (is_cascade(heads), bool(heads.mask_on)) == (cls.cascade, cls.masks)

    @classmethod
    def from_config(cls, cfg: CfgNode, student: GeneralizedRCNN) -> "RegionCNN":
        """With the RoI loss that the config names."""
        return cls(student, cls_loss=cfg.SSOD.ROI_CLS_LOSS, focal_gamma=cfg.SSOD.FOCAL_GAMMA)

    def detect(self, model: GeneralizedRCNN, images: List[Tensor], floor: float) -> TeacherOutputs:
        """The teacher's features, proposals, predictions and detections.

        With a cascade, the predictions are those of all stages together (see `judge_boxes`). With a
        mask head detections have `pred_masks`, bool (M, H, W).
        """
        maps = extract_features(model, images)
        proposals, _ = run_rpn(model.proposal_generator, maps)
        predictions, found = detect_regions(model.roi_heads, maps, proposals, floor)
        if model.roi_heads.mask_on:
            add_masks(model.roi_heads, maps, found)
        return TeacherOutputs(maps, proposals, predictions, found)

    def run(self, views: Views) -> Outputs:
        """One batched forward over both streams, one more for each method's extra images."""
        student, heads = self.student, self.student.roi_heads
        streams = [views.labeled] + ([views.unlabeled] if views.unlabeled else [])
        targets = [target for view in streams for target in view.targets]
        maps = extract_features(student, [image for view in streams for image in view.images])
        rpn_targets = [target for view in streams for target in view.rpn_targets or view.targets]
        proposals, anchors = run_rpn(student.proposal_generator, maps, rpn_targets)
        rois = sample_rois(heads, proposals, targets)
        first = 0
        for view in streams:
            last = first + len(view.images)
            if view.sample_rois is not None:
                rois[first:last] = view.sample_rois(proposals[first:last], targets[first:last])
            first = last
        stages = run_stages(heads, maps, rois, targets)
        counts = [len(view.images) for view in streams]
        masks = run_masks(heads, maps, rois, targets, counts) if heads.mask_on else None
        parts, first = [], 0
        for index, view in enumerate(streams):
            images = slice(first, first + len(view.images))
            own = ViewOutputs(
                view=view,
                maps=maps.select(images.start, images.stop),
                proposals=proposals[images],
                anchors=anchors[images],
                masks=masks[index] if masks else None,
                **stages[0].part(images),
            )
            later = [
                replace(own, anchors=[], masks=None, stage=number, **stage.part(images))
                for number, stage in enumerate(stages)
                if number
            ]
            parts.append(replace(own, later=tuple(later)))
            first = images.stop
        extra = {}
        for name, extra_images in views.extra.items():
            with keep_running_statistics(student):
                extra[name] = extract_features(student, extra_images)
        return Outputs(parts[0], parts[1] if len(parts) > 1 else None, extra)

    def losses(self, outputs: ViewOutputs) -> Dict[str, Tensor]:
        """Those of the RPN, of each stage of the box head, and of the mask head."""
        heads = self.student.roi_heads
        losses = rpn_losses(self.student.proposal_generator, outputs.anchors)
        for view in outputs.stages:
            found = roi_losses(
                box_stage(heads, view.stage),
                view.rois,
                view.predictions,
                view.cls_weights,
                view.reg_weights,
                self.cls_loss,
                self.focal_gamma,
            )
            losses.update(stage_losses(found, heads, view.stage))
        if outputs.masks is not None:
            losses.update(mask_losses(heads, outputs.masks))
        return losses


@register_detector
class FasterRCNN(RegionCNN):
    """One box head, boxes only."""

    family = "Faster R-CNN"
    capabilities = _REGIONS | {Capability.ONE_HEAD}
    cascade, masks = False, False


@register_detector
class MaskRCNN(RegionCNN):
    """One box head and a mask head."""

    family = "Mask R-CNN"
    capabilities = _REGIONS | {Capability.ONE_HEAD, Capability.MASKS}
    cascade, masks = False, True


@register_detector
class CascadeRCNN(RegionCNN):
    """Several box heads, boxes only."""

    family = "Cascade R-CNN"
    capabilities = _REGIONS
    cascade, masks = True, False


@register_detector
class CascadeMaskRCNN(RegionCNN):
    """Several box heads and a mask head."""

    family = "Cascade Mask R-CNN"
    capabilities = _REGIONS | {Capability.MASKS}
    cascade, masks = True, True
