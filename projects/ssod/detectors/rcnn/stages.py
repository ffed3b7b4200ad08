"""The stages of a box head: one in Faster and Mask R-CNN, several in Cascade R-CNN.

`box_stage` gives every stage the attributes of `StandardROIHeads`, so that code for one box head
runs on any stage of a cascade. Shapes: R boxes, C channels, P bins a side.
"""

from __future__ import annotations

from typing import Any, List, Union

from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor


class CascadeStage:
    """One stage of `CascadeROIHeads`; it has no parameters of its own.

    Attributes:
        heads, stage: where it is. The others are those of `StandardROIHeads`, of this stage.
    """

    def __init__(self, heads: CascadeROIHeads, stage: int) -> None:
        self.heads, self.stage = heads, stage
        self.box_in_features: List[str] = heads.box_in_features
        self.box_pooler = heads.box_pooler
        self.box_predictor: FastRCNNOutputLayers = heads.box_predictor[stage]
        self.proposal_matcher: Matcher = heads.proposal_matchers[stage]
        self.num_classes: int = heads.num_classes
        self.batch_size_per_image: int = heads.batch_size_per_image
        self.positive_fraction: float = heads.positive_fraction

    def box_head(self, pooled: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, D). The gradient of the maps is the mean over the stages, as in
        Detectron2.
        """
        scaled = _ScaleGradient.apply(pooled, 1.0 / self.heads.num_cascade_stages)
        return self.heads.box_head[self.stage](scaled)

    def label_and_sample_proposals(
        self, proposals: List[Instances], targets: List[Instances]
    ) -> List[Instances]:
        """Detectron2's, which samples for the first stage."""
        return self.heads.label_and_sample_proposals(proposals, targets)


BoxStage = Union[StandardROIHeads, CascadeStage]


def is_cascade(roi_heads: Any) -> bool:
    """Whether these are Detectron2's `CascadeROIHeads`."""
    return isinstance(roi_heads, CascadeROIHeads)


def stage_count(roi_heads: Any) -> int:
    """How many stages the box head has."""
    return roi_heads.num_cascade_stages if is_cascade(roi_heads) else 1


def box_stage(roi_heads: Any, stage: int = 0) -> Any:
    """Stage number `stage` of the box head; heads without a cascade are their only stage.

    Methods read `box_predictor`, `box_head` and `box_pooler` of it.
    """
    return CascadeStage(roi_heads, stage) if is_cascade(roi_heads) else roi_heads
