"""Detectron2's RPN head and RoI heads, each behind a gradient decoupled layer (DeFRCN, section
3.2).
"""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.structures import Boxes
from torch import Tensor

from ssod.methods.defrcn.layers import ChannelAffine

# Gradient shares of base training; the Method replaces them.
_RPN_SCALE, _ROI_SCALE = 0.0, 0.75


@RPN_HEAD_REGISTRY.register()
class DecoupledRPNHead(StandardRPNHead):
    """`StandardRPNHead` on affine maps of the features.

    With this `MODEL.RPN.HEAD_NAME`, the config loads weights that DeFRCN has trained.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        first = next(module for module in self.conv.modules() if hasattr(module, "in_channels"))
        self.affine = ChannelAffine(first.in_channels, _RPN_SCALE)

    def forward(self, features: List[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        return super().forward(self.affine(features))


class DecoupledPooler(ROIPooler):
    """`ROIPooler` of affine maps of the features."""

    affine: ChannelAffine

    def forward(self, x: Sequence[Tensor], box_lists: List[Boxes]) -> Tensor:
        return super().forward(self.affine(x), box_lists)


@ROI_HEADS_REGISTRY.register()
class DecoupledROIHeads(StandardROIHeads):
    """`StandardROIHeads` with `DecoupledPooler`.

    With this `MODEL.ROI_HEADS.NAME`, the config loads weights that DeFRCN has trained.
    """

    def __init__(self, cfg: Any, input_shape: Any) -> None:
        super().__init__(cfg, input_shape)
        channels = input_shape[self.box_in_features[0]].channels
        self.box_pooler.__class__ = DecoupledPooler
        self.box_pooler.affine = ChannelAffine(channels, _ROI_SCALE)
