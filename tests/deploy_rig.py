"""Random boxes, and tiny detectors of each family that can be exported."""

from __future__ import annotations

from typing import Dict, List, Tuple

import torch
from detectron2.config import CfgNode
from torch import Tensor

from runs import RETINANET
from tiny import tiny_cfg

# Family -> what turns the tiny Faster R-CNN into it.
FAMILIES: Dict[str, List[object]] = {
    "faster": [],
    "cascade": [
        *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ],
    "mask": [
        *("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    ],
    "fcos": [
        *("MODEL.META_ARCHITECTURE", "FCOS", "MODEL.FCOS.NUM_CLASSES", 3),
        *("MODEL.FCOS.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.FCOS.NUM_CONVS", 1),
        *("MODEL.FCOS.SCORE_THRESH_TEST", 0.02),
    ],
    "retinanet": [*RETINANET, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.02],
}


def family_cfg(family: str) -> CfgNode:
    """The tiny detector as another family; it reports everything that it finds."""
    cfg = tiny_cfg()
    cfg.merge_from_list(FAMILIES[family])
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


def boxes_of(count: int, seed: int = 0) -> Tuple[Tensor, Tensor, Tensor]:
    """XYXY boxes (count, 4) within 100 pixels, scores (count,) and one of four groups (count,)."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 40], dim=1)
    groups = torch.randint(0, 4, (count,), generator=generator)
    return boxes, torch.rand(count, generator=generator), groups
