"""The teacher's proposals with ground-truth labels.

Shapes: N images, R sampled proposals over all of them, K foreground classes (class K is
background).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor


@dataclass
class LabeledProposals:
    """Attributes:
    boxes: N `Boxes`.
    labels: (R,) in [0, K]. gt_boxes: (R, 4), for background the proposal itself.
    """

    boxes: List[Boxes]
    labels: Tensor
    gt_boxes: Tensor


def label_proposals(
    heads: StandardROIHeads,
    proposals: Sequence[Instances],
    targets: Sequence[Instances],
    number: int,
) -> LabeledProposals:
    """Matches each image's proposals with the image's targets and samples `number` of them, as the
    student's head does.

    Ground-truth boxes do not join the proposals, because they are not the teacher's.

    Args:
        heads: the student's heads, for matching thresholds and the share of foreground.
        proposals: N `Instances` with proposal_boxes. targets: N `Instances` with gt_boxes and
            gt_classes.
    """
    boxes, labels, gt_boxes = [], [], []
    for proposal, target in zip(proposals, targets):
        own = proposal.proposal_boxes.tensor
        classes = torch.full((len(own),), heads.num_classes, device=own.device)
        wanted = own
        if len(target) and len(own):
            overlap = pairwise_iou(target.gt_boxes, proposal.proposal_boxes)
            matched, kind = heads.proposal_matcher(
                overlap
            )  # kind: 1 foreground, 0 background, -1 neither
            foreground = kind == 1
            classes = torch.where(foreground, target.gt_classes[matched], classes)
            classes = torch.where(kind == -1, -1, classes)
            wanted = torch.where(foreground[:, None], target.gt_boxes.tensor[matched], own)
        rows = torch.cat(
            subsample_labels(classes, number, heads.positive_fraction, heads.num_classes)
        )
        boxes.append(Boxes(own[rows]))
        labels.append(classes[rows])
        gt_boxes.append(wanted[rows])
    return LabeledProposals(boxes, torch.cat(labels), torch.cat(gt_boxes))
