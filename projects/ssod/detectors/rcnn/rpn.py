"""Detectron2's RPN, step by step, with a weight for every sampled anchor.

The RPN itself is unchanged. It does not return the ground truth that each anchor was matched with,
so a recording matcher collects it. Shapes: A anchors of one image, S sampled ones, F foreground
ones among these.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.detectors.anchor_grid import AnchorGrid
from ssod.detectors.features import FeatureMaps
from ssod.detectors.rcnn.losses import box_regression_loss


@dataclass
class SampledAnchors:
    """The anchors of one image that take part in the RPN's losses.

    Attributes:
        logits, labels, cls_weights: (S,) objectness, 1 for foreground, loss weight.
        deltas, boxes, gt_boxes, reg_weights: (F, 4), (F, 4), (F, 4), (F,) of the foreground
            anchors.
        sampled_boxes: (S, 4) all of them.
        indices, grid: (S,) which of the A anchors they are, and how these are numbered.
    """

    logits: Tensor
    labels: Tensor
    cls_weights: Tensor
    deltas: Tensor
    boxes: Tensor
    gt_boxes: Tensor
    reg_weights: Tensor
    sampled_boxes: Tensor
    indices: Tensor
    grid: AnchorGrid


@contextmanager
def recorded_matches(rpn: RPN) -> Iterator[List[Tensor]]:
    """Yields a list.

    For each image whose anchors are labelled inside of the `with` block, it gets the matched index
    of every anchor, (A,).
    """
    matcher, matches = rpn.anchor_matcher, []

    def record(quality: Tensor) -> Tuple[Tensor, Tensor]:
        indices, labels = matcher(quality)
        matches.append(indices)
        return indices, labels

    rpn.anchor_matcher = record
    try:
        yield matches
    finally:
        rpn.anchor_matcher = matcher


def _predict(
    rpn: RPN, features: Dict[str, Tensor]
) -> Tuple[List[Boxes], List[Tensor], List[Tensor]]:
    """Anchors, objectness (N, A_l) and deltas (N, A_l, 4) of each level."""
    levels = [features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(levels)
    logits, deltas = rpn.rpn_head(levels)
    logits = [level.permute(0, 2, 3, 1).flatten(1).float() for level in logits]
    deltas = [
        level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for level in deltas
    ]
    return anchors, logits, deltas


def run_rpn(
    rpn: RPN, maps: FeatureMaps, targets: Optional[Sequence[Instances]] = None
) -> Tuple[List[Instances], List[SampledAnchors]]:
    """Proposals of every image and, where targets are given, the anchors to train on.

    Args:
        rpn: Detectron2's. maps: N images. targets: N `Instances` from `make_targets`, or None.

    Returns:
        N `Instances` with proposal_boxes and objectness_logits; N `SampledAnchors` (none without
        targets).
    """
    proposals: List[Optional[Instances]] = [None] * maps.num_images
    sampled: List[Optional[SampledAnchors]] = [None] * maps.num_images
    for group in maps.groups:
        anchors, logits, deltas = _predict(rpn, group.features)
        found = rpn.predict_proposals(anchors, logits, deltas, group.image_sizes)
        for index, proposal in zip(group.indices, found):
            proposals[index] = proposal
        if targets is None:
            continue
        chosen = [targets[index] for index in group.indices]
        with recorded_matches(rpn) as matches:
            labels, gt_boxes = rpn.label_and_sample_anchors(anchors, chosen)
        all_logits, all_deltas = torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
        boxes = Boxes.cat(anchors).tensor
        grid = _grid(rpn, group.features)
        for row, index in enumerate(group.indices):
            keep = (labels[row] >= 0).nonzero().flatten()
            foreground = keep[labels[row][keep] == 1]
            label = labels[row][keep].float()
            cls_weights, reg_weights = torch.ones_like(label), label.new_ones(len(foreground))
            if len(chosen[row]):
                matched = matches[row].to(keep.device)
                cls_weights[label == 1] = chosen[row].gt_rpn_cls_weight[matched[foreground]]
                reg_weights = chosen[row].gt_rpn_reg_weight[matched[foreground]]
            sampled[index] = SampledAnchors(
                logits=all_logits[row, keep],
                labels=label,
                cls_weights=cls_weights,
                deltas=all_deltas[row, foreground],
                boxes=boxes[foreground],
                gt_boxes=gt_boxes[row][foreground],
                reg_weights=reg_weights,
                sampled_boxes=boxes[keep],
                indices=keep,
                grid=grid,
            )
    return [p for p in proposals if p is not None], [s for s in sampled if s is not None]


def objectness_of(rpn: RPN, maps: FeatureMaps, sampled: Sequence[SampledAnchors]) -> List[Tensor]:
    """The objectness that another detector with the same anchors gives to the sampled anchors.

    Its maps may have other padding than the maps of the anchors.

    Args:
        rpn, maps: of the other detector, N images. sampled: N, from `run_rpn`.

    Returns:
        N probabilities (S,) of being an object; 0 for anchors beyond its maps.
    """
    found: List[Optional[Tensor]] = [None] * maps.num_images
    for group in maps.groups:
        _, levels, _ = _predict(rpn, group.features)
        grid = _grid(rpn, group.features)
        for row, index in zip(torch.cat(levels, dim=1), group.indices):
            anchors = sampled[index]
            indices, inside = anchors.grid.find_in(grid, anchors.indices)
            found[index] = row[indices].sigmoid() * inside
    return [row for row in found if row is not None]


def _grid(rpn: RPN, features: Dict[str, Tensor]) -> AnchorGrid:
    levels = [features[name] for name in rpn.in_features]
    return AnchorGrid.of(levels, rpn.anchor_generator.num_cell_anchors)


def rpn_losses(rpn: RPN, anchors: Sequence[SampledAnchors]) -> Dict[str, Tensor]:
    """Detectron2's `RPN.losses`, each anchor times its weight; the normaliser counts images, not
    weights.
    """
    normalizer = rpn.batch_size_per_image * len(anchors)
    logits = torch.cat([a.logits for a in anchors])
    cls = F.binary_cross_entropy_with_logits(
        logits,
        torch.cat([a.labels for a in anchors]),
        weight=torch.cat([a.cls_weights for a in anchors]),
        reduction="sum",
    )
    # Rows of weight 0 are left out, because an infinite loss times 0 is NaN.
    reg_weights = torch.cat([a.reg_weights for a in anchors])
    rows = (reg_weights > 0).nonzero().flatten()
    loc = box_regression_loss(
        torch.cat([a.boxes for a in anchors])[rows],
        torch.cat([a.deltas for a in anchors])[rows],
        torch.cat([a.gt_boxes for a in anchors])[rows],
        rpn.box2box_transform,
        rpn.box_reg_loss_type,
        rpn.smooth_l1_beta,
    )
    loc = (loc * reg_weights[rows]).sum()
    losses = {"loss_rpn_cls": cls / normalizer, "loss_rpn_loc": loc / normalizer}
    return {name: loss * rpn.loss_weight.get(name, 1.0) for name, loss in losses.items()}
