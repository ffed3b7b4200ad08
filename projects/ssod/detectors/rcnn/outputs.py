"""The detector's outputs in one step, as methods see them.

Shapes: N images, R RoIs over all of them, K foreground classes, D box-head channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, List, Optional, Tuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from ssod.detectors.features import FeatureMaps
from ssod.detectors.outputs import Rows, StreamOutputs
from ssod.detectors.rcnn.masks import MaskRows
from ssod.detectors.rcnn.roi_heads import BoxPredictions
from ssod.detectors.rcnn.rpn import SampledAnchors


@dataclass
class ViewOutputs(StreamOutputs):
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
        masks: the inputs of the mask loss. None without a mask head.
        stage: index of the cascade's stage, from 0. later: the same images in the later stages,
            without anchors and masks. origin: in a later stage, (R,) the first stage's RoI that
            each RoI comes from; else None.
    """

    maps: FeatureMaps
    proposals: List[Instances]
    anchors: List[SampledAnchors]
    rois: List[Instances]
    predictions: BoxPredictions
    cls_weights: Tensor
    reg_weights: Tensor
    masks: Optional[MaskRows] = None
    stage: int = 0
    later: Tuple["ViewOutputs", ...] = ()
    origin: Optional[Tensor] = None

    @property
    def stages(self) -> List["ViewOutputs"]:
        """This view in all stages of the box head, the first one first."""
        return [self, *self.later]

    def map_stages(self, change: Callable[["ViewOutputs"], "ViewOutputs"]) -> "ViewOutputs":
        """A copy in which `change` has replaced every stage."""
        return replace(change(self), later=tuple(change(view) for view in self.later))

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

    @property
    def rows(self) -> Rows:
        """The sampled RoIs."""
        labels, weights = self.labels, self.cls_weights
        empty = torch.zeros(0, dtype=torch.int64, device=weights.device)
        index = torch.cat([empty] + [roi.gt_index for roi in self.rois])
        return Rows(
            logits=self.predictions.logits,
            labels=labels,
            label_index=index,
            image_index=self.image_index,
            valid=torch.ones_like(labels, dtype=torch.bool),
            cls_weights=weights,
            reg_weights=self.reg_weights,
        )
