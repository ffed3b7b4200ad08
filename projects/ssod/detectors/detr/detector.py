"""The adapters of Deformable DETR and RT-DETR in the training step."""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, List, Type

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ssod.config import CLASS_KEYS
from ssod.detectors.base import Capability, Detector
from ssod.detectors.detr.config import add_deformable_detr_config, add_rt_detr_config
from ssod.detectors.detr.deformable_detr import DeformableDETR
from ssod.detectors.detr.meta_arch import TransformerDetector
from ssod.detectors.detr.outputs import QueryOutputs
from ssod.detectors.detr.rt_detr import RTDETRV2
from ssod.detectors.detr.stream_losses import stream_losses
from ssod.detectors.detr.targets import DetrLabels
from ssod.detectors.features import keep_running_statistics
from ssod.detectors.loss_only import refuse_all_but_boxes
from ssod.detectors.outputs import Outputs, TeacherOutputs
from ssod.detectors.registry import register_detector
from ssod.structures import Views, make_targets

CLASS_KEYS["DeformableDETR"] = "MODEL.DEFORMABLE_DETR.NUM_CLASSES"
CLASS_KEYS["RTDETRV2"] = "MODEL.RT_DETR.NUM_CLASSES"
_COMMON = frozenset({Capability.WEIGHTS, Capability.ROWS, Capability.MAPS})


class TransformerAdapter(Detector):
    """Drives a `TransformerDetector`; base of both families.

    Args:
        student: it is called and never copied.
    """

    model_class: Type[TransformerDetector]

    def __init__(self, student: TransformerDetector) -> None:
        self.student = student

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """The meta-architecture of the family, or one derived from it."""
        return isinstance(model, cls.model_class)

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> "TransformerAdapter":
        """Refuses masks and keys of two-stage detectors."""
        refuse_all_but_boxes(cfg, cls.family)
        assert isinstance(student, TransformerDetector)
        return cls(student)

    def detect(self, model: Any, images: List[Tensor], floor: float) -> TeacherOutputs:
        """One label a query, of its best class. The same box under two classes is one object."""
        predictions = model.predict(images)
        found = model.found(predictions, images, floor, one_class=True)
        return TeacherOutputs(predictions.maps, None, None, found)

    def run(self, views: Views) -> Outputs:
        """One pass over both streams, one more for each method's extra images."""
        student = self.student
        streams = [views.labeled] + ([views.unlabeled] if views.unlabeled else [])
        images = [image for view in streams for image in view.images]
        targets = [target for view in streams for target in view.targets]
        predictions = student.predict(images, targets)
        labels = DetrLabels.of(targets, predictions.sizes)
        decoder = predictions.decoder
        assignment = student.criterion.match(decoder.logits, decoder.boxes, labels)
        cls_weights = labels.gather(labels.cls_weights, assignment[-1], 1.0)
        reg_weights = labels.gather(labels.reg_weights, assignment[-1], 1.0)
        parts, first = [], 0
        for view in streams:
            last = first + len(view.images)
            parts.append(
                QueryOutputs(
                    view=view,
                    predictions=predictions.select(first, last),
                    labels=labels.select(first, last),
                    assignment=assignment[:, first:last],
                    cls_weights=cls_weights[first:last].flatten(),
                    reg_weights=reg_weights[first:last].flatten(),
                )
            )
            first = last
        extra: Dict[str, Any] = {}
        for name, own in views.extra.items():
            with keep_running_statistics(student):
                extra[name] = student.predict(own, [_no_labels(image) for image in own])
        return Outputs(parts[0], parts[1] if len(parts) > 1 else None, extra)

    def losses(self, outputs: QueryOutputs) -> Dict[str, Tensor]:
        """The losses of every decoder layer, of the encoder and of the denoising queries."""
        shape = outputs.assignment.shape[1:]
        losses = stream_losses(
            self.student.criterion,
            outputs.predictions,
            outputs.labels,
            outputs.assignment,
            outputs.cls_weights.view(shape),
            outputs.reg_weights.view(shape),
        )
        unused = [0.0 * tensor.sum() for tensor in self.student.idle(outputs.predictions)]
        return {**losses, "loss_cls": losses["loss_cls"] + sum(unused)}


def _no_labels(image: Tensor) -> Any:
    size = (int(image.shape[-2]), int(image.shape[-1]))
    classes = torch.zeros(0, dtype=torch.int64, device=image.device)
    return make_targets(size, image.new_zeros((0, 4), dtype=torch.float32), classes)


@register_detector
class DeformableDETRAdapter(TransformerAdapter):
    """With learned queries, the matching of one pass can be imposed on another."""

    family = "Deformable DETR"
    capabilities: FrozenSet[Capability] = _COMMON | {Capability.PAIRED}
    model_class = DeformableDETR

    def __init__(self, student: TransformerDetector) -> None:
        super().__init__(student)
        if not student.paired:
            self.family = "two-stage Deformable DETR"  # type: ignore[misc]
            self.capabilities = _COMMON

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        add_deformable_detr_config(cfg)


@register_detector
class RTDETRAdapter(TransformerAdapter):
    """The encoder proposes its queries, so that they differ from pass to pass."""

    family = "RT-DETR v2"
    capabilities: FrozenSet[Capability] = _COMMON
    model_class = RTDETRV2

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        add_rt_detr_config(cfg)
