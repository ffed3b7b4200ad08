"""Runs any Detectron2 meta-architecture through its eval and training forward alone.

The eval forward takes images and gives detections, which are the labels. The training forward takes
images and boxes and gives a dict of losses. Nothing else of the model is known, so single boxes
cannot be weighted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence

from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ssod.detectors.base import Detector
from ssod.detectors.normalizer import LossNormalizer
from ssod.detectors.outputs import Outputs, StreamOutputs, TeacherOutputs
from ssod.detectors.score_floor import lowered_scores
from ssod.errors import UserError
from ssod.structures import View, Views

# The fields of a detection that are labels.
_LABELS = ("pred_boxes", "scores", "pred_classes", "pred_masks")


@dataclass
class LossOutputs(StreamOutputs):
    """One stream of a step and the model's own losses on it, {} without images."""

    losses: Dict[str, Tensor] = field(default_factory=dict)


class LossOnlyModel(Detector):
    """Drives any model, stream by stream.

    Args:
        student: a Detectron2 model: list of input dicts -> losses in training, detections in eval
            mode.
    """

    family = "any other model"

    def __init__(self, student: nn.Module) -> None:
        self.student = student
        self.normalizer = LossNormalizer(student)

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """Always."""
        return True

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> "LossOnlyModel":
        """Refuses keypoints, which the step does not have, and keys of two-stage detectors."""
        if cfg.MODEL.KEYPOINT_ON:
            raise UserError(
                "MODEL.KEYPOINT_ON is set, but only boxes and masks are trained: set it to False."
            )
        refuse_two_stage_keys(cfg, type(student).__name__)
        return cls(student)

    def detect(self, model: nn.Module, images: List[Tensor], floor: float) -> TeacherOutputs:
        """The detections of the eval forward; the model's score threshold is lowered to `floor`."""
        inputs = [
            {"image": image, "height": image.shape[-2], "width": image.shape[-1]}
            for image in images
        ]
        with lowered_scores(model, floor):
            found = self._call(model, inputs)
        detections = []
        for image, output in zip(images, found):
            row = output.get("instances") if isinstance(output, dict) else None
            if row is None or not (
                row.has("pred_boxes") and row.has("scores") and row.has("pred_classes")
            ):
                raise UserError(
                    f"{type(model).__name__} gives no instances with pred_boxes, scores and pred_classes in eval mode: "
                    "only such a model can label; name another MODEL.META_ARCHITECTURE or set SSOD.PSEUDO_LABELS."
                )
            size = (int(image.shape[-2]), int(image.shape[-1]))
            kept = row[(row.scores > floor) & row.pred_boxes.nonempty(threshold=1e-2)]
            # Other fields are no labels.
            fields = {name: kept.get(name) for name in _LABELS if kept.has(name)}
            detections.append(Instances(size, **fields))
        return TeacherOutputs(None, None, None, detections)

    def run(self, views: Views) -> Outputs:
        """The labelled stream first; a stream without images is left out."""
        labeled = LossOutputs(views.labeled)
        if views.labeled.images:
            labeled.losses = self._losses(views.labeled)
        outputs: Outputs = Outputs(labeled)
        if views.unlabeled is not None:
            outputs.unlabeled = LossOutputs(views.unlabeled, self._losses(views.unlabeled))
        self.normalizer.synchronize()
        return outputs

    def losses(self, outputs: LossOutputs) -> Dict[str, Tensor]:
        """The model's own losses, computed in `run`."""
        return outputs.losses

    def checkpointables(self) -> Dict[str, Any]:
        """The running number of positives, which `state_dict` does not have."""
        return {"normalizer": self.normalizer}

    def _losses(self, view: View) -> Dict[str, Tensor]:
        inputs: List[Dict[str, Any]] = []
        for image, target in zip(view.images, view.targets):
            plain = Instances(target.image_size)
            plain.gt_boxes = Boxes(target.gt_boxes.tensor)
            plain.gt_classes = target.gt_classes
            if target.has("gt_masks"):
                plain.gt_masks = target.gt_masks
            height, width = target.image_size
            inputs.append({"image": image, "instances": plain, "height": height, "width": width})
        return self._call(self.student, inputs)

    @staticmethod
    def _call(model: nn.Module, inputs: Sequence[Dict[str, Any]]) -> Any:
        try:
            return model(inputs)
        except KeyError as error:
            known = error.args[0] if error.args else error
            if known in inputs[0]:
                raise
            raise UserError(
                f"{type(model).__name__} asks its input for {known!r}, but a step brings images, boxes and masks only "
                "(image, instances, height, width): name another MODEL.META_ARCHITECTURE."
            ) from error


def refuse_all_but_boxes(cfg: CfgNode, name: str) -> None:
    """Raises `UserError` for masks, keypoints, and keys of two-stage heads."""
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key]:
            raise UserError(f"MODEL.{key} is set, but {name} has boxes alone: set it to False.")
    refuse_two_stage_keys(cfg, name)


def refuse_two_stage_keys(cfg: CfgNode, name: str) -> None:
    """Raises `UserError` for keys of a two-stage detector's heads that `name` does not have.

    A key of a method, such as SSOD.LABEL_MATCH.RPN_SCORE_THRESHOLD, whose default is above 0, has
    no effect instead.
    """
    if cfg.SSOD.RPN_SCORE_THRESHOLD > 0:
        raise UserError(
            f"SSOD.RPN_SCORE_THRESHOLD is set, but {name} has no RPN that could have labels of its own: set it to 0."
        )
    if cfg.SSOD.ROI_CLS_LOSS != "cross_entropy":
        raise UserError(
            f"SSOD.ROI_CLS_LOSS {cfg.SSOD.ROI_CLS_LOSS} is for Faster R-CNN: set it to 'cross_entropy', which leaves the losses "
            f"of {name} as they are."
        )
