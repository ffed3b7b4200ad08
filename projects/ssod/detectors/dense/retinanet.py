"""RetinaNet in the training step (Lin et al., ICCV 2017)."""

from __future__ import annotations

from typing import Dict, List, Sequence

import torch
from detectron2.modeling import RetinaNet
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ssod.detectors.dense.detector import BACKGROUND, IGNORED, DenseAdapter
from ssod.detectors.dense.outputs import DenseOutputs
from ssod.detectors.dense.predictions import DenseGroup
from ssod.detectors.registry import register_detector


@register_detector
class RetinaNetDetector(DenseAdapter):
    """Drives Detectron2's `RetinaNet`."""

    family = "RetinaNet"
    model_class = RetinaNet
    num_outputs = 2
    first_normalizer = 100.0

    def scores(self, group: DenseGroup) -> Tensor:
        """(n, L, K) class probabilities."""
        return group.logits.sigmoid()

    @torch.no_grad()
    def match(self, group: DenseGroup, targets: Sequence[Instances]) -> List[Tensor]:
        """By IoU, as `RetinaNet.label_anchors`."""
        anchors, matches = Boxes(group.anchors), []
        for target in targets:
            indices, kinds = self.student.anchor_matcher(pairwise_iou(target.gt_boxes, anchors))
            indices = torch.where(kinds == 1, indices, BACKGROUND)
            matches.append(indices.masked_fill(kinds == -1, IGNORED))
        return matches

    def losses(self, outputs: DenseOutputs) -> Dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg`."""
        model, normalizer = self.student, self.normalizer_of(outputs)
        rows = self.regression_rows(outputs)
        reg = self.regression_loss(outputs, rows, model.box_reg_loss_type, model.smooth_l1_beta)
        cls = self.classification_loss(outputs)
        return {"loss_cls": cls / normalizer, "loss_box_reg": reg / normalizer}
