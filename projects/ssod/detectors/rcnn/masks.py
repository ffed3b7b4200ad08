"""Mask R-CNN's mask head, step by step: targets, weighted loss, masks of detections.

Shapes: N images, F foreground RoIs over all of them, M labels of one image of H x W pixels, S the
side of a predicted mask, K foreground classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign, paste_masks_in_image
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.detectors.features import FeatureMaps


@dataclass
class MaskRows:
    """The inputs of one stream's mask loss.

    Attributes:
        logits: (F, S, S) of each RoI's own class. targets: bool (F, S, S). weights: (F,).
        empty: a zero that depends on the mask head, for a stream without such RoIs.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor
    empty: Tensor


def mask_targets(masks: Tensor, index: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cuts boxes out of masks, as Detectron2's `BitMasks.crop_and_resize` does.

    A mask that several RoIs share is not copied for each of them.

    Args:
        masks: bool (M, H, W). index: (F,) which mask. boxes: (F, 4). side: S.

    Returns:
        bool (F, S, S).
    """
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
    align = ROIAlign((side, side), 1.0, 0, aligned=True)
    return align(masks[:, None].float(), rois)[:, 0] >= 0.5


def _taught(roi: Instances, target: Instances, num_classes: int) -> Tensor:
    """(F,) indices of the RoIs of one image that learn a mask. Their labels have one."""
    rows = (roi.gt_classes < num_classes).nonzero().flatten()
    if not len(rows) or not target.has("gt_masks"):
        return rows[:0]
    # A mask without pixels stands for an unknown mask.
    known = target.gt_masks.tensor.flatten(1).any(dim=1)
    return rows[known[roi.gt_index[rows]]]


def run_masks(
    roi_heads: Any,
    maps: FeatureMaps,
    rois: Sequence[Instances],
    targets: Sequence[Instances],
    counts: Sequence[int],
) -> List[MaskRows]:
    """The mask head on the foreground RoIs of all streams.

    A mask has its label's weight `roi_cls_weight`. The weights that
    methods give to RoIs in classification do not apply.

    Args:
        roi_heads: with a mask head. rois, targets: of N images. counts: images of each stream.

    Returns:
        One `MaskRows` a stream.
    """
    rows = [_taught(roi, target, roi_heads.num_classes) for roi, target in zip(rois, targets)]
    chosen = [roi[own] for roi, own in zip(rois, rows)]
    logits = _mask_logits(roi_heads, maps, [roi.proposal_boxes for roi in chosen])
    empty = logits.sum() * 0.0
    own_class = _of_classes(logits, [roi.gt_classes for roi in chosen])
    side = logits.shape[-1]
    parts, first, first_row = [], 0, 0
    for count in counts:
        part = slice(first, first + count)
        cut = [
            mask_targets(target.gt_masks.tensor, roi.gt_index, roi.proposal_boxes.tensor, side)
            for roi, target in zip(chosen[part], targets[part])
            if len(roi)
        ]
        weights = [roi.gt_roi_cls_weight for roi in chosen[part]]
        last_row = first_row + sum(len(weight) for weight in weights)
        own = own_class[first_row:last_row]
        parts.append(
            MaskRows(
                logits=own,
                targets=torch.cat([torch.zeros_like(own[:0], dtype=torch.bool), *cut]),
                weights=torch.cat([own.new_zeros(0), *weights]),
                empty=empty,
            )
        )
        first, first_row = part.stop, last_row
    return parts


def mask_losses(roi_heads: Any, rows: MaskRows) -> Dict[str, Tensor]:
    """Detectron2's `mask_rcnn_loss` with a weight for each RoI, still divided by F S S."""
    if not len(rows.weights):
        return {"loss_mask": rows.empty}
    loss = F.binary_cross_entropy_with_logits(
        rows.logits, rows.targets.to(rows.logits.dtype), reduction="none"
    )
    loss = (loss.mean(dim=(1, 2)) * rows.weights).sum() / len(rows.weights)
    return {"loss_mask": loss * roi_heads.mask_head.loss_weight}


def add_masks(roi_heads: Any, maps: FeatureMaps, detections: Sequence[Instances]) -> None:
    """Gives detections `pred_masks`, bool (M, H, W) in their image's pixels, in place."""
    logits = _mask_logits(roi_heads, maps, [row.pred_boxes for row in detections])
    found = _of_classes(logits, [row.pred_classes for row in detections]).sigmoid()
    for row, part in zip(detections, found.split([len(row) for row in detections])):
        size: Tuple[int, int] = row.image_size
        row.pred_masks = paste_masks_in_image(part, row.pred_boxes, size).bool()


def _mask_logits(roi_heads: Any, maps: FeatureMaps, boxes: Sequence[Boxes]) -> Tensor:
    """(F, K, S, S), or (F, 1, S, S) of a head that knows no classes."""
    head = roi_heads.mask_head
    names = roi_heads.mask_in_features
    return maps.pool(names, roi_heads.mask_pooler, head.layers, boxes).float()


def _of_classes(logits: Tensor, classes: Sequence[Tensor]) -> Tensor:
    """(F, S, S): each row's own class."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    own = torch.cat(list(classes))
    return logits[torch.arange(len(own), device=own.device), own]
