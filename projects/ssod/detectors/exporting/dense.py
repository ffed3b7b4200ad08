"""One-stage detectors of Detectron2: RetinaNet and FCOS."""

from __future__ import annotations

from typing import Tuple

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.fcos import FCOS
from torch import Tensor, nn

from ssod.detectors.exporting import FlatDetector, exports


class FlatDense(FlatDetector):
    """A model whose forward pass, told no size of the original image, keeps its own pixels."""

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        found = self.model([{"image": image}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes.to(torch.int64)


@exports(RetinaNet, FCOS)
def flat_dense(model: nn.Module) -> FlatDetector:
    """Nothing of these models is left out."""
    return FlatDense(model)
