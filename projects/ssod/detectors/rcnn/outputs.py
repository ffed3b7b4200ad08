"""The detector's outputs in one step, as methods see them.

Shapes: N images, R RoIs over all of them, K foreground classes, D box-head channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional

import torch
from detectron2.structures import Instances
from torch import Tensor

from ssod.detectors.features import FeatureMaps
from ssod.detectors.rcnn.roi_heads import BoxPredictions
from ssod.detectors.rcnn.rpn import SampledAnchors
from ssod.structures import View


@dataclass
class ViewOutputs:
    """The student's outputs on one view (all labelled, or all unlabelled images of the step).

    Attributes:
        view: the images and targets.
        maps: backbone features.
        proposals: N `Instances`, all RPN proposals before sampling.
        anchors: N `SampledAnchors`.
        rois: N `Instances` of sampled RoIs: proposal_boxes, gt_boxes, gt_classes, gt_scores,
            gt_<weights>.
        predictions: box features (R, D), logits (R, K+1) and deltas of the RoIs.
        cls_weights, reg_weights: (R,) loss weights; methods change them in `weigh`.
    """

    view: View
    maps: FeatureMaps
    proposals: List[Instances]
    anchors: List[SampledAnchors]
    rois: List[Instances]
    predictions: BoxPredictions
    cls_weights: Tensor
    reg_weights: Tensor

    @property
    def labels(self) -> Tensor:
        """(R,) class of each RoI, K for background."""
        empty = torch.zeros(0, dtype=torch.int64, device=self.cls_weights.device)
        return torch.cat([empty] + [roi.gt_classes for roi in self.rois])

    @property
    def image_index(self) -> Tensor:
        """(R,) image of each RoI."""
        sizes = [len(roi) for roi in self.rois]
        counts = torch.tensor(sizes, dtype=torch.int64, device=self.cls_weights.device)
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


@dataclass
class Outputs:
    """The student's outputs in one step.

    Attributes:
        labeled, unlabeled: the two streams; `unlabeled` is None during burn-in.
        extra: backbone features of the images that methods added, by method name.
    """

    labeled: ViewOutputs
    unlabeled: Optional[ViewOutputs] = None
    extra: Dict[str, FeatureMaps] = field(default_factory=dict)


@dataclass
class TeacherOutputs:
    """The teacher's outputs on the weak views, in eval mode and without gradient.

    Attributes:
        maps: features. proposals: N `Instances`. predictions: of all proposals, before NMS.
        detections: N `Instances` with pred_boxes, scores, pred_classes above the score floor.
    """

    maps: FeatureMaps
    proposals: List[Instances]
    predictions: BoxPredictions
    detections: List[Instances]
