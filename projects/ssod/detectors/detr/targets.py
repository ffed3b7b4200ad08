"""Labels as DETR takes them, for a whole batch.

Shapes: N images, M labels over all of them. Boxes are (cx, cy, w, h) as shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_convert


@dataclass
class DetrLabels:
    """The labels of N images, one after the other.

    Attributes:
        classes: (M,) int64. boxes: (M, 4). scores: (M,), 1 for human labels.
        cls_weights, reg_weights: (M,) each label's weights in the losses.
        counts: labels of each image.
    """

    classes: Tensor
    boxes: Tensor
    scores: Tensor
    cls_weights: Tensor
    reg_weights: Tensor
    counts: List[int]

    @classmethod
    def of(cls, targets: Sequence[Instances], sizes: Sequence[Tuple[int, int]]) -> "DetrLabels":
        """From targets as `ssod.structures.make_targets` makes them.

        Args:
            sizes: (height, width) in pixels that stands for 1, of each image.
        """
        boxes = []
        for target, (height, width) in zip(targets, sizes):
            xyxy = target.gt_boxes.tensor.float()
            boxes.append(xyxy / xyxy.new_tensor([width, height, width, height]))
        return cls(
            classes=torch.cat([target.gt_classes for target in targets]),
            boxes=box_convert(torch.cat(boxes), "xyxy", "cxcywh"),
            scores=torch.cat([target.gt_scores for target in targets]),
            cls_weights=torch.cat([target.gt_roi_cls_weight for target in targets]),
            reg_weights=torch.cat([target.gt_roi_reg_weight for target in targets]),
            counts=[len(target) for target in targets],
        )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def starts(self) -> List[int]:
        """The first row of each image."""
        return [sum(self.counts[:index]) for index in range(len(self.counts))]

    def select(self, start: int, stop: int) -> "DetrLabels":
        """Those of images start..stop-1."""
        rows = slice(sum(self.counts[:start]), sum(self.counts[:stop]))
        return DetrLabels(
            self.classes[rows],
            self.boxes[rows],
            self.scores[rows],
            self.cls_weights[rows],
            self.reg_weights[rows],
            self.counts[start:stop],
        )

    def as_dicts(self) -> List[Dict[str, Any]]:
        """One dict an image, as the models of `transformers` take them."""
        classes, boxes = self.classes.split(self.counts), self.boxes.split(self.counts)
        return [{"class_labels": c, "boxes": b} for c, b in zip(classes, boxes)]

    def gather(self, values: Tensor, index: Tensor, fill: float) -> Tensor:
        """The value of the label that each row is matched with.

        Args:
            values: (M,) or (M, 4) of the labels. index: (..., N, Q) which label of its image, -1
                for none. fill: value of rows without a label.

        Returns:
            (..., N, Q), or (..., N, Q, 4).
        """
        rows = index + torch.tensor(self.starts, dtype=torch.int64, device=index.device)[:, None]
        # One more row, which stands for no label.
        padded = torch.cat([values, values.new_full((1, *values.shape[1:]), fill)])
        return padded[torch.where(index >= 0, rows, len(values))]
