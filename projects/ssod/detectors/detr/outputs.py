"""A transformer detector's outputs on one stream.

Shapes: N images, L decoder layers, Q queries, K classes; R = N x Q rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssod.detectors.detr.predictions import Predictions
from ssod.detectors.detr.targets import DetrLabels
from ssod.detectors.features import FeatureMaps
from ssod.detectors.outputs import Rows, StreamOutputs


@dataclass
class QueryOutputs(StreamOutputs):
    """The student's outputs on a stream, matched with its labels.

    Attributes:
        predictions: of all layers. labels: those that the stream is trained on.
        assignment: (L, N, Q) which label of its image a query is matched with, -1 for none.
        cls_weights, reg_weights: (R,) of the last layer; methods change them in `weigh`. The other
            layers' weights are their labels'.
    """

    predictions: Predictions
    labels: DetrLabels
    assignment: Tensor
    cls_weights: Tensor
    reg_weights: Tensor

    @property
    def maps(self) -> FeatureMaps:
        """Features of the backbone."""
        return self.predictions.maps

    @property
    def rows(self) -> Rows:
        """The queries of the last layer, image after image; logits (R, K) of sigmoids."""
        logits = self.predictions.decoder.logits[-1]
        images, queries, classes = logits.shape
        index = self.assignment[-1]
        labels = self.labels.gather(self.labels.classes, index, classes)
        image_index = torch.arange(images, device=logits.device).repeat_interleave(queries)
        return Rows(
            logits=logits.flatten(0, 1),
            labels=labels.flatten(),
            label_index=index.flatten(),
            image_index=image_index,
            valid=torch.ones_like(image_index, dtype=torch.bool),
            cls_weights=self.cls_weights,
            reg_weights=self.reg_weights,
        )
