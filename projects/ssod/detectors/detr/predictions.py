"""The predictions of a transformer detector, and boxes from them.

Shapes: L decoder layers, N images, Q queries, S places of the encoder, D denoising queries, K
classes. Boxes are (cx, cy, w, h) as shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from ssod.detectors.features import FeatureMaps


@dataclass
class Layers:
    """Predictions of one kind of query, by layer.

    Attributes:
        logits: (L, N, Q, K). boxes: (L, N, Q, 4).
    """

    logits: Tensor
    boxes: Tensor

    def select(self, start: int, stop: int) -> "Layers":
        """Those of images start..stop-1."""
        return Layers(self.logits[:, start:stop], self.boxes[:, start:stop])


@dataclass
class Denoising:
    """Queries that started at labels with noise.

    Attributes:
        layers: their predictions. assignment: (N, D) the label that each started at, -1 for those
            that are to predict nothing. groups: how many queries a label has.
    """

    layers: Layers
    assignment: Tensor
    groups: int

    def select(self, start: int, stop: int) -> "Denoising":
        """Those of images start..stop-1."""
        part = self.layers.select(start, stop)
        return Denoising(part, self.assignment[start:stop], self.groups)


@dataclass
class Predictions:
    """The predictions of one pass over N images.

    Attributes:
        decoder: of every layer in training, of the last one otherwise.
        hidden: (L, N, Q, hidden) the queries' features, of every layer; None outside training.
        encoder: the encoder's proposals with L = 1, where the model has them and trains.
        encoder_binary: these tell objects from background only: every label has class 0.
        denoising: None outside training, and where no image has a label.
        maps: features of the backbone. sizes: N pairs (height, width) in pixels that stand for 1.
    """

    decoder: Layers
    hidden: Optional[Tensor]
    encoder: Optional[Layers]
    encoder_binary: bool
    denoising: Optional[Denoising]
    maps: FeatureMaps
    sizes: List[Tuple[int, int]]

    def select(self, start: int, stop: int) -> "Predictions":
        """Those of images start..stop-1."""
        return Predictions(
            decoder=self.decoder.select(start, stop),
            hidden=None if self.hidden is None else self.hidden[:, start:stop],
            encoder=None if self.encoder is None else self.encoder.select(start, stop),
            encoder_binary=self.encoder_binary,
            denoising=None if self.denoising is None else self.denoising.select(start, stop),
            maps=self.maps.select(start, stop),
            sizes=self.sizes[start:stop],
        )


def detections(
    logits: Tensor,
    boxes: Tensor,
    *,
    image_size: Tuple[int, int],
    box_size: Tuple[int, int],
    floor: float,
    most: int,
    one_class: bool,
) -> Instances:
    """The best boxes of one image.

    Args:
        logits: (Q, K). boxes: (Q, 4).
        image_size: (height, width) that boxes are clipped to. box_size: that stands for 1.
        floor: scores are higher. most: how many at most.
        one_class: a query gives one box, of its best class; False: one of each class above the
            floor, as DETRs are evaluated.

    Returns:
        `Instances` with pred_boxes, scores and pred_classes, by falling score.
    """
    scores = logits.float().sigmoid()
    if one_class:
        best, classes = scores.max(dim=1)
        queries = torch.arange(len(best), device=best.device)
    else:
        best = scores.flatten()
        queries = torch.arange(len(scores), device=best.device).repeat_interleave(scores.shape[1])
        classes = torch.arange(scores.shape[1], device=best.device).repeat(len(scores))
    order = best.argsort(descending=True, stable=True)[:most]
    order = order[best[order] > floor]
    height, width = box_size
    xyxy = box_convert(boxes.float(), "cxcywh", "xyxy")[queries[order]]
    found = Instances(image_size)
    found.pred_boxes = Boxes(xyxy * xyxy.new_tensor([width, height, width, height]))
    found.pred_boxes.clip(image_size)
    found.scores, found.pred_classes = best[order], classes[order]
    # A box without area would have IoU 0 with everything.
    return found[found.pred_boxes.nonempty(threshold=1e-2)]
