"""One-stage detectors of Detectron2: RetinaNet and FCOS."""

from __future__ import annotations

from typing import Tuple

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.fcos import FCOS
from torch import Tensor, nn

from ssod.detectors.exporting import FlatDetector, exports


class FlatDense(FlatDetector):
    """A model that returns boxes in pixels of its input, because it gets no size of the original
    image.
    """

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        found = self.model([{"image": image}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes.to(torch.int64)


@exports(RetinaNet, FCOS)
def flat_dense(model: nn.Module) -> FlatDetector:
    """Makes a `FlatDense`. No part of these models is refused."""
    return FlatDense(model)
