"""Tiny detectors of the region families, and labels with masks for them."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from ssod.structures import make_targets
from tiny import tiny_cfg

CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 30),
]
MASK = [
    *("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7, "INPUT.MASK_FORMAT", "bitmask"),
]
KEYS: Dict[str, List[Any]] = {
    "Faster R-CNN": [],
    "Cascade R-CNN": CASCADE,
    "Mask R-CNN": MASK,
    "Cascade Mask R-CNN": CASCADE + MASK,
}


def region_cfg(family: str) -> CfgNode:
    """The tiny detector of this family."""
    cfg = tiny_cfg()
    cfg.merge_from_list(KEYS[family])
    return cfg


def region_model(family: str) -> Any:
    """Built with seed 0; its heads predict boxes away from their input."""
    torch.manual_seed(0)
    model = build_model(region_cfg(family))
    for name, parameter in model.roi_heads.named_parameters():
        if "bbox_pred.weight" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def scene(
    size: Tuple[int, int], boxes: Sequence[Sequence[float]], classes: Sequence[int], masks: bool
) -> Instances:
    """Targets whose masks are ellipses in their boxes."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    targets = make_targets(size, tensor, torch.tensor(classes, dtype=torch.int64))
    if masks:
        targets.gt_masks = ellipses(size, tensor)
    return targets


def ellipses(size: Tuple[int, int], boxes: Tensor) -> BitMasks:
    y = torch.arange(size[0])[:, None] + 0.5
    x = torch.arange(size[1])[None] + 0.5
    found = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(found, boxes.tolist()):
        inside = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2
        mask |= inside + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1
    return BitMasks(found)


def plain(targets: Instances) -> Instances:
    """The targets of Detectron2's own training."""
    found = Instances(targets.image_size, gt_boxes=Boxes(targets.gt_boxes.tensor.clone()))
    found.gt_classes = targets.gt_classes.clone()
    if targets.has("gt_masks"):
        found.gt_masks = targets.gt_masks
    return found


def three_scenes(masks: bool) -> Tuple[List[Tensor], List[Instances]]:
    """Images of two sizes, one of them without labels."""
    torch.manual_seed(1)
    sizes = [(64, 64), (64, 64), (64, 96)]
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes]
    targets = [
        scene(sizes[0], [[4, 4, 30, 30], [28, 30, 60, 62]], [0, 2], masks),
        scene(sizes[1], [], [], masks),
        scene(sizes[2], [[10, 8, 40, 30], [50, 10, 90, 60], [20, 34, 44, 60]], [1, 1, 0], masks),
    ]
    return images, targets
