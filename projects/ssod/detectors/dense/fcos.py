"""FCOS in the training step (Tian et al., ICCV 2019; the scores of Tian et al., PAMI 2020)."""

from __future__ import annotations

from typing import Dict, List, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.detectors.dense.centerness import centerness_targets
from ssod.detectors.dense.detector import BACKGROUND, DenseAdapter
from ssod.detectors.dense.fcos_model import add_fcos_config
from ssod.detectors.dense.outputs import DenseOutputs
from ssod.detectors.dense.predictions import DenseGroup
from ssod.detectors.registry import register_detector


@register_detector
class FCOSDetector(DenseAdapter):
    """Drives Detectron2's `FCOS`.

    The centerness follows from the box, so it has the weight of box regression.
    """

    family = "FCOS"
    model_class = FCOS
    own_parts = ("forward", "forward_training", "forward_inference", "match_anchors", "losses")
    num_outputs = 3
    first_normalizer = 300.0

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Adds `MODEL.FCOS`."""
        add_fcos_config(cfg)

    def scores(self, group: DenseGroup) -> Tensor:
        """(n, L, K): the root of class probability times centerness."""
        assert group.centerness is not None
        return torch.sqrt(group.logits.sigmoid() * group.centerness.sigmoid()[..., None])

    @torch.no_grad()
    def match(self, group: DenseGroup, targets: Sequence[Instances]) -> List[Tensor]:
        """By the centre of the box and its size; Detectron2's code needs at least one label."""
        levels = [Boxes(level) for level in group.anchors.split(group.level_lengths())]
        matches = []
        for target in targets:
            if len(target):
                matches += self.student.match_anchors(levels, [target])
            else:
                count, device = len(group.anchors), group.anchors.device
                matches.append(torch.full((count,), BACKGROUND, device=device))
        return matches

    def losses(self, outputs: DenseOutputs) -> Dict[str, Tensor]:
        """`loss_fcos_cls`, `loss_fcos_loc` and `loss_fcos_ctr`."""
        normalizer = self.normalizer_of(outputs)
        rows = self.regression_rows(outputs)
        target = centerness_targets(
            self.student.box2box_transform,
            self.flat_anchors(outputs)[rows],
            outputs.gt_boxes[rows],
        )
        centerness = F.binary_cross_entropy_with_logits(
            outputs.predictions.flat("centerness")[rows],
            target,
            weight=outputs.locations.reg_weights[rows],
            reduction="sum",
        )
        return {
            "loss_fcos_cls": self.classification_loss(outputs) / normalizer,
            "loss_fcos_loc": self.regression_loss(outputs, rows, "giou", 0.0) / normalizer,
            "loss_fcos_ctr": centerness / normalizer,
        }
