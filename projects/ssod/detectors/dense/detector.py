"""The common part of the adapters of RetinaNet and FCOS: features, head, matching, weighted losses.

Shapes: R locations over all images of a stream, L of one image, K classes (class K is background).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Dict, FrozenSet, List, Sequence, Tuple, Type

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from ssod.detectors.base import Capability, Detector
from ssod.detectors.dense.normalizer import DenseNormalizer
from ssod.detectors.dense.outputs import DenseOutputs
from ssod.detectors.dense.predictions import DenseGroup, DensePredictions, predict
from ssod.detectors.features import extract_features, keep_running_statistics
from ssod.detectors.loss_only import refuse_two_stage_keys
from ssod.detectors.outputs import Outputs, Rows, TeacherOutputs
from ssod.detectors.rcnn.losses import box_regression_loss
from ssod.structures import View, Views

# The values of `match` for locations without a label.
BACKGROUND, IGNORED = -1, -2


class DenseAdapter(Detector):
    """Drives a `DenseDetector` of Detectron2.

    A label weighs `roi_cls_weight` in classification and `roi_reg_weight` in box regression, at
    every location that is matched with it. Background locations weigh 1.

    Args:
        student: it is called and never copied.
    """

    capabilities: FrozenSet[Capability] = frozenset(
        {Capability.WEIGHTS, Capability.ROWS, Capability.MAPS, Capability.DENSE}
    )
    # The model's class. A subclass that overrides its forward or its losses is another family.
    model_class: ClassVar[Type[DenseDetector]]
    own_parts: ClassVar[Tuple[str, ...]] = (
        "forward",
        "forward_training",
        "forward_inference",
        "label_anchors",
        "losses",
    )
    # Outputs of the head, and Detectron2's first value of the loss normaliser.
    num_outputs: ClassVar[int]
    first_normalizer: ClassVar[float]

    def __init__(self, student: DenseDetector) -> None:
        self.student = student
        self.normalizer = DenseNormalizer(student, self.first_normalizer)

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """The family's class, or a subclass that trains and infers in the same way."""
        return isinstance(model, cls.model_class) and all(
            getattr(type(model), part) is getattr(cls.model_class, part) for part in cls.own_parts
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> "DenseAdapter":
        """Refuses the keys of two-stage heads."""
        refuse_two_stage_keys(cfg, cls.family)
        return cls(student)

    def checkpointables(self) -> Dict[str, Any]:
        """The running number of positives."""
        return {"normalizer": self.normalizer}

    # ---------------------------------------------------------------- the teacher

    @torch.no_grad()
    def detect(self, model: DenseDetector, images: List[Tensor], floor: float) -> TeacherOutputs:
        """Features, dense predictions, and the detections above `floor`."""
        maps = extract_features(model, images)
        predictions = predict(model, maps, self.num_outputs)
        found: List[Any] = [None] * len(images)
        before, model.test_score_thresh = model.test_score_thresh, floor
        try:
            for group in predictions.groups:
                for row, index in enumerate(group.indices):
                    found[index] = self._detect_one(model, group, row)
        finally:
            model.test_score_thresh = before
        return TeacherOutputs(maps, None, predictions, found)

    def _detect_one(self, model: DenseDetector, group: DenseGroup, row: int) -> Instances:
        lengths = group.level_lengths()
        found = model.inference_single_image(
            [Boxes(level) for level in group.anchors.split(lengths)],
            list(self.scores(group)[row].split(lengths)),
            list(group.deltas[row].split(lengths)),
            group.image_sizes[row],
        )
        found.pred_boxes.clip(found.image_size)
        return found[found.pred_boxes.nonempty(threshold=1e-2)]

    @abstractmethod
    def scores(self, group: DenseGroup) -> Tensor:
        """(n, L, K) scores at test time; the predictions are left as they are."""

    # ---------------------------------------------------------------- the student

    def run(self, views: Views) -> Outputs:
        """One batched forward over both streams, one more for each method's extra images."""
        student = self.student
        streams = [views.labeled] + ([views.unlabeled] if views.unlabeled else [])
        images = [image for view in streams for image in view.images]
        maps = extract_features(student, images)
        predictions = predict(student, maps, self.num_outputs)
        parts, first = [], 0
        for view in streams:
            last = first + len(view.images)
            own = predictions.select(first, last)
            parts.append(self._stream(view, own, maps.select(first, last)))
            first = last
        self._count(parts)
        extra = {}
        for name, extra_images in views.extra.items():
            with keep_running_statistics(student):
                extra[name] = extract_features(student, extra_images)
        return Outputs(parts[0], parts[1] if len(parts) > 1 else None, extra)

    def _stream(self, view: View, predictions: DensePredictions, maps: Any) -> DenseOutputs:
        """Matches each location with a label and gives it the label's weights."""
        if not predictions.groups:
            return DenseOutputs(view, maps, predictions, self._no_rows(), torch.zeros(0, 4))
        columns: Dict[str, List[Tensor]] = {}
        for group in predictions.groups:
            targets = [view.targets[index] for index in group.indices]
            matches = self.match(group, targets)
            for index, target, match in zip(group.indices, targets, matches):
                for name, value in self._columns(group.anchors, target, match).items():
                    columns.setdefault(name, []).append(value)
                place = torch.full_like(match, index)
                columns.setdefault("image_index", []).append(place)
        joined = {name: torch.cat(values) for name, values in columns.items()}
        boxes = joined.pop("gt_boxes")
        rows = Rows(logits=predictions.flat("logits"), **joined)
        return DenseOutputs(view, maps, predictions, rows, boxes)

    def _columns(self, anchors: Tensor, target: Instances, match: Tensor) -> Dict[str, Tensor]:
        ones = anchors.new_ones(len(anchors))
        columns = {
            "label_index": match.clamp(min=BACKGROUND),
            "valid": match != IGNORED,
            "labels": torch.full_like(match, self.student.num_classes),
            "cls_weights": ones,
            "reg_weights": ones,
            "gt_boxes": anchors,
        }
        if len(target):
            own, index = match >= 0, match.clamp(min=0)
            columns["labels"] = torch.where(own, target.gt_classes[index], columns["labels"])
            columns["cls_weights"] = torch.where(own, target.gt_roi_cls_weight[index], ones)
            columns["reg_weights"] = torch.where(own, target.gt_roi_reg_weight[index], ones)
            columns["gt_boxes"] = torch.where(own[:, None], target.gt_boxes.tensor[index], anchors)
        return columns

    def _no_rows(self) -> Rows:
        """The outputs of a stream without images.

        `SSOD.ALTERNATE_STREAMS` gives the other stream its turn.
        """
        some = next(self.student.parameters())
        empty, whole = some.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=some.device)
        logits = some.new_zeros(0, self.student.num_classes)
        return Rows(logits, whole, whole, whole, whole.bool(), empty, empty)

    @abstractmethod
    def match(self, group: DenseGroup, targets: Sequence[Instances]) -> List[Tensor]:
        """The label of each location, one (L,) int64 an image: an index, BACKGROUND or IGNORED."""

    def _count(self, streams: Sequence[DenseOutputs]) -> None:
        """Moves the loss normaliser. The labelled stream comes first."""
        labeled = streams[0]
        counted = labeled if labeled.view.images or self.normalizer.images else streams[-1]
        if counted.view.images:
            positives = int((counted.locations.label_index >= 0).sum())
            get_event_storage().put_scalar("num_pos_anchors", positives / len(counted.view.images))
            self.normalizer.count(positives, len(counted.view.images))
        self._now = self.normalizer.value, self.normalizer.images
        self.normalizer.synchronize()

    def normalizer_of(self, outputs: DenseOutputs) -> float:
        """The divisor of the stream's losses, see `DenseNormalizer`."""
        value, images = self._now
        return max(value * len(outputs.view.images) / max(images, 1), 1.0)

    # ---------------------------------------------------------------- losses

    def classification_loss(self, outputs: DenseOutputs) -> Tensor:
        """Detectron2's focal loss, each location times its weight; not divided."""
        rows, student = outputs.locations, self.student
        logits, labels, weights = rows.logits, rows.labels, rows.cls_weights
        if not bool(rows.valid.all()):
            logits, labels, weights = (t[rows.valid] for t in (logits, labels, weights))
        target = F.one_hot(labels, num_classes=student.num_classes + 1)[:, :-1].to(logits)
        # The scripted loss is not used. After a few calls it is fused, which changes its last bits.
        loss = sigmoid_focal_loss(
            logits,
            target,
            alpha=student.focal_loss_alpha,
            gamma=student.focal_loss_gamma,
            reduction="none",
        )
        return (loss.sum(dim=1) * weights).sum()

    def regression_rows(self, outputs: DenseOutputs) -> Tensor:
        """(F,) the foreground rows that weigh more than 0 in box regression.

        The others are left out, because an infinite loss times 0 is NaN.
        """
        rows = outputs.foreground
        return rows[outputs.locations.reg_weights[rows] > 0]

    def regression_loss(
        self, outputs: DenseOutputs, rows: Tensor, kind: str, beta: float
    ) -> Tensor:
        """Detectron2's box loss, each location times its label's weight; not divided."""
        loss = box_regression_loss(
            self.flat_anchors(outputs)[rows],
            outputs.predictions.flat("deltas")[rows],
            outputs.gt_boxes[rows],
            self.student.box2box_transform,
            kind,
            beta,
        )
        return (loss * outputs.locations.reg_weights[rows]).sum()

    @staticmethod
    def flat_anchors(outputs: DenseOutputs) -> Tensor:
        """(R, 4) in the order of the rows."""
        return torch.cat(
            [group.anchors.repeat(len(group.indices), 1) for group in outputs.predictions.groups]
        )
