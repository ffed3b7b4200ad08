"""SSD in the training step (Liu et al., ECCV 2016).

Shapes: n images of a stream, A default boxes of an image, K classes (class K is background). R
rows: the foreground boxes of all images and the background boxes that were mined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import box_iou

from ssod.detectors.base import Capability, Detector
from ssod.detectors.loss_only import refuse_all_but_boxes
from ssod.detectors.outputs import Outputs, Rows, StreamOutputs, TeacherOutputs
from ssod.detectors.registry import register_detector
from ssod.detectors.ssd.config import add_ssd_config
from ssod.detectors.ssd.model import SSD, Predictions
from ssod.structures import View, Views


@dataclass
class ClassLogits:
    """`logits`: (R, K+1), background last."""

    logits: Tensor


@dataclass
class SSDOutputs(StreamOutputs):
    """The student's outputs on one stream.

    Attributes:
        predictions: of the rows. labels, label_index, image_index, cls_weights, reg_weights: (R,),
            as in `Rows`. deltas: (R, 4). targets: (R, 4), undefined for background. positives: the
            number of foreground rows.
    """

    predictions: ClassLogits
    labels: Tensor
    label_index: Tensor
    image_index: Tensor
    cls_weights: Tensor
    reg_weights: Tensor
    deltas: Tensor
    targets: Tensor
    positives: int

    @property
    def rows(self) -> Rows:
        """The foreground boxes, and the background boxes with the highest losses."""
        return Rows(
            logits=self.predictions.logits,
            labels=self.labels,
            label_index=self.label_index,
            image_index=self.image_index,
            valid=torch.ones_like(self.labels, dtype=torch.bool),
            cls_weights=self.cls_weights,
            reg_weights=self.reg_weights,
        )


@register_detector
class SSDDetector(Detector):
    """Drives `SSD`.

    A label weighs `roi_cls_weight` in classification and `roi_reg_weight` in box regression, at
    every default box that is matched with it. Background boxes are mined before weights apply, and
    weigh 1. An image without labels has no foreground box, so it has no loss (as published).

    Args:
        student: it is called and never copied.
    """

    family = "SSD"
    capabilities: FrozenSet[Capability] = frozenset(
        {Capability.WEIGHTS, Capability.ROWS, Capability.SOFTMAX_ROWS}
    )

    def __init__(self, student: SSD) -> None:
        self.student = student

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        add_ssd_config(cfg)

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """The meta-architecture, or one derived from it."""
        return isinstance(model, SSD)

    @classmethod
    def from_config(cls, cfg: CfgNode, student: nn.Module) -> "SSDDetector":
        """Refuses masks and keys of two-stage detectors."""
        refuse_all_but_boxes(cfg, cls.family)
        assert isinstance(student, SSD)
        return cls(student)

    def detect(self, model: Any, images: List[Tensor], floor: float) -> TeacherOutputs:
        """The detections of the eval forward above `floor`."""
        before, model.ssd.score_thresh = model.ssd.score_thresh, floor
        try:
            found = model.inference([{"image": image} for image in images], do_postprocess=False)
        finally:
            model.ssd.score_thresh = before
        kept = [row[row.pred_boxes.nonempty(threshold=1e-2)] for row in found]
        return TeacherOutputs(None, None, None, kept)

    def run(self, views: Views) -> Outputs:
        """One batched forward over both streams."""
        streams = [views.labeled] + ([views.unlabeled] if views.unlabeled else [])
        images = [image for view in streams for image in view.images]
        boxes = [target.gt_boxes.tensor for view in streams for target in view.targets]
        predictions = self.student.predict(images, boxes)
        parts, first = [], 0
        for view in streams:
            parts.append(self._stream(view, predictions, first))
            first += len(view.images)
        return Outputs(parts[0], parts[1] if len(parts) > 1 else None)

    def losses(self, outputs: SSDOutputs) -> Dict[str, Tensor]:
        """Cross-entropy and smooth L1, each row times its weight, over the foreground rows."""
        number = max(1, outputs.positives)
        cls = F.cross_entropy(outputs.predictions.logits, outputs.labels, reduction="none")
        # Rows that weigh 0 are left out, because an infinite loss times 0 is NaN.
        own = ((outputs.label_index >= 0) & (outputs.reg_weights > 0)).nonzero().flatten()
        reg = F.smooth_l1_loss(outputs.deltas[own], outputs.targets[own], reduction="none")
        return {
            "loss_cls": (cls * outputs.cls_weights).sum() / number,
            "loss_box_reg": (reg.sum(dim=1) * outputs.reg_weights[own]).sum() / number,
        }

    # ---------------------------------------------------------------- one stream

    def _stream(self, view: View, found: Predictions, first: int) -> SSDOutputs:
        """Matches default boxes with labels and picks the rows; `first`: the stream's first image
        in `found`.
        """
        last = first + len(view.images)
        logits, deltas = found.logits[first:last], found.deltas[first:last]
        matches = self._match(found.anchors, found.boxes[first:last])
        columns = [
            self._columns(found.anchors, target, boxes, match)
            for target, boxes, match in zip(view.targets, found.boxes[first:last], matches)
        ]
        labels = _stack([c["labels"] for c in columns], logits, self.student.num_classes)
        picked = (matches >= 0) | self._mine(logits, labels)
        image, box = picked.nonzero(as_tuple=True)
        background_last = torch.cat([logits[..., 1:], logits[..., :1]], dim=-1)[image, box]

        def rows(name: str, fill: float) -> Tensor:
            return _stack([c[name] for c in columns], logits, fill)[image, box]

        weights = rows("cls_weights", 1.0).float(), rows("reg_weights", 1.0).float()
        own = [c["targets"] for c in columns]
        targets = torch.stack(own) if own else deltas.detach()
        return SSDOutputs(
            view=view,
            predictions=ClassLogits(background_last),
            labels=labels[image, box],
            label_index=matches[image, box],
            image_index=image,
            cls_weights=weights[0],
            reg_weights=weights[1],
            deltas=deltas[image, box],
            targets=targets[image, box],
            positives=int((matches >= 0).sum()),
        )

    @torch.no_grad()
    def _match(self, anchors: Tensor, boxes: List[Tensor]) -> Tensor:
        """(n, A) index of each default box's label, -1 for none."""
        found = torch.full((len(boxes), len(anchors)), -1, device=anchors.device)
        for index, own in enumerate(boxes):
            if len(own):
                found[index] = self.student.ssd.proposal_matcher(box_iou(own, anchors))
        return found

    @torch.no_grad()
    def _columns(
        self, anchors: Tensor, target: Instances, boxes: Tensor, match: Tensor
    ) -> Dict[str, Tensor]:
        """(A,) or (A, 4) of one image; `boxes` are its labels' on the squashed image."""
        ones = anchors.new_ones(len(anchors))
        columns = {
            "labels": torch.full_like(match, self.student.num_classes),
            "cls_weights": ones,
            "reg_weights": ones,
            "targets": torch.zeros_like(anchors),
        }
        if len(target):
            own, index = match >= 0, match.clamp(min=0)
            columns["labels"] = torch.where(own, target.gt_classes[index], columns["labels"])
            columns["cls_weights"] = torch.where(own, target.gt_roi_cls_weight[index], ones)
            columns["reg_weights"] = torch.where(own, target.gt_roi_reg_weight[index], ones)
            columns["targets"][own] = self.student.ssd.box_coder.encode_single(
                boxes[index[own]], anchors[own]
            )
        return columns

    @torch.no_grad()
    def _mine(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(n, A) bool: the background boxes with the highest losses, a number for each foreground
        box of the image.
        """
        loss = F.cross_entropy(logits.flatten(0, 1), self._shifted(labels), reduction="none")
        loss = loss.view(labels.shape)
        foreground = labels < self.student.num_classes
        loss[foreground] = -float("inf")
        rank = loss.sort(1, descending=True)[1].sort(1)[1]
        wanted = self.student.ssd.neg_to_pos_ratio * foreground.sum(1, keepdim=True)
        return (rank < wanted) & ~foreground

    def _shifted(self, labels: Tensor) -> Tensor:
        """torchvision's classes, flat: background is 0."""
        flat = labels.flatten()
        return torch.where(flat == self.student.num_classes, 0, flat + 1)


def _stack(values: List[Tensor], like: Tensor, fill: float) -> Tensor:
    """(n, A), also for a stream without images."""
    if values:
        return torch.stack(values)
    dtype = torch.int64 if isinstance(fill, int) else torch.float32
    return torch.full(like.shape[:2], fill, dtype=dtype, device=like.device)
