"""DETR's matching and its losses, with weights of single labels.

Shapes: L decoder layers, N images, Q queries, K classes, M labels. Boxes are (cx, cy, w, h) as
shares of the image. An assignment is (L, N, Q): which label of its image a query is matched with,
-1 for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from ssod.detectors.detr.targets import DetrLabels

# The focal loss in the matching's cost of a class, in both models.
_COST_ALPHA, _GAMMA = 0.25, 2.0


def focal_rows(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Sigmoid focal loss with gamma 2, summed over the classes.

    Args:
        logits: (..., K). labels: (...,) int64, K for background.

    Returns:
        (...,).
    """
    target = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    wrong = (target - probability).abs()
    balance = alpha * target + (1 - alpha) * (1 - target)
    return (balance * wrong**_GAMMA * loss).sum(-1)


def varifocal_rows(logits: Tensor, labels: Tensor, quality: Tensor, alpha: float) -> Tensor:
    """Varifocal loss (Zhang et al., CVPR 2021), summed over the classes: the target of the label's
    class is the IoU of the predicted box.

    Args:
        logits: (..., K). labels: (...,) int64, K for background. quality: (...,) the IoU.
    """
    target = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    score = quality[..., None] * target
    weight = alpha * logits.detach().sigmoid() ** _GAMMA * (1 - target) + score
    loss = F.binary_cross_entropy_with_logits(logits, score, weight=weight, reduction="none")
    return loss.sum(-1)


def box_overlaps(boxes: Tensor, others: Tensor) -> Tuple[Tensor, Tensor]:
    """IoU and generalised IoU of each row with the other's same row: (R, 4), (R, 4) -> (R,)."""
    low, high = (box_convert(b, "cxcywh", "xyxy").split(2, -1) for b in (boxes, others))
    inside = (torch.min(low[1], high[1]) - torch.max(low[0], high[0])).clamp(min=0).prod(-1)
    hull = (torch.max(low[1], high[1]) - torch.min(low[0], high[0])).clamp(min=0).prod(-1)
    area = (low[1] - low[0]).prod(-1), (high[1] - high[0]).prod(-1)
    union = area[0] + area[1] - inside
    iou = inside / union
    return iou, iou - (hull - union) / hull


@dataclass(frozen=True)
class Criterion:
    """The parts of the matching and of the losses, with their weights.

    Attributes:
        num_classes: K. class_cost, l1_cost, giou_cost: of the matching.
        class_weight, l1_weight, giou_weight: of the losses.
        alpha: of the focal or varifocal loss. varifocal: which of the two.
    """

    num_classes: int
    class_cost: float
    l1_cost: float
    giou_cost: float
    class_weight: float
    l1_weight: float
    giou_weight: float
    alpha: float
    varifocal: bool

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, labels: DetrLabels) -> Tensor:
        """The assignment of least cost, of each layer and image.

        Args:
            logits: (L, N, Q, K). boxes: (L, N, Q, 4).

        Returns:
            (L, N, Q) int64. If an image has more labels than queries, the labels of highest cost
            are left out.
        """
        found = torch.full(logits.shape[:3], -1, dtype=torch.int64)
        costs = []
        for image, start in enumerate(labels.starts):
            rows = slice(start, start + labels.counts[image])
            own = labels.classes[rows], labels.boxes[rows]
            costs.append(self._cost(logits[:, image].float(), boxes[:, image].float(), *own))
        shapes = [cost.shape for cost in costs]
        # One copy from the device for all.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        for image, part in enumerate(flat.split([shape.numel() for shape in shapes])):
            for layer, cost in enumerate(part.view(shapes[image]).numpy()):
                queries, matched = linear_sum_assignment(cost)
                found[layer, image, torch.as_tensor(queries)] = torch.as_tensor(matched)
        return found.to(logits.device)

    def _cost(self, logits: Tensor, boxes: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
        """(L, Q, K), (L, Q, 4), (M,), (M, 4) -> (L, Q, M)."""
        layers, queries = logits.shape[:2]
        p = logits.flatten(0, 1).sigmoid()[:, classes]
        present = _COST_ALPHA * (1 - p) ** _GAMMA * -(p + 1e-8).log()
        absent = (1 - _COST_ALPHA) * p**_GAMMA * -(1 - p + 1e-8).log()
        given = boxes.flatten(0, 1)
        corners = [box_convert(b, "cxcywh", "xyxy") for b in (given, wanted)]
        cost = self.class_cost * (present - absent) + self.l1_cost * torch.cdist(given, wanted, p=1)
        cost = cost - self.giou_cost * generalized_box_iou(*corners)
        # A query with a cost of NaN is matched last. The solver refuses infinity.
        large = torch.finfo(cost.dtype).max
        cost = cost.nan_to_num(nan=large, posinf=large, neginf=large)
        return cost.view(layers, queries, len(classes))

    def losses(
        self,
        logits: Tensor,
        boxes: Tensor,
        labels: DetrLabels,
        assignment: Tensor,
        normalizer: float,
        cls_weights: Optional[Tensor] = None,
        reg_weights: Optional[Tensor] = None,
    ) -> Dict[str, Tensor]:
        """The losses of each layer, times their weights in the sum.

        A query has its label's weight, or 1 without a label. If all weights are 1, the losses are
        those of `transformers`.

        Args:
            logits: (L, N, Q, K). boxes: (L, N, Q, 4). assignment: (L, N, Q).
            normalizer: what the sums over queries are divided by: the number of labels.
            cls_weights, reg_weights: (L, N, Q) instead of the labels' weights.

        Returns:
            "loss_cls", "loss_bbox", "loss_giou", (L,) each.
        """
        logits, boxes = logits.float(), boxes.float()
        if cls_weights is None:
            cls_weights = labels.gather(labels.cls_weights, assignment, 1.0)
        if reg_weights is None:
            reg_weights = labels.gather(labels.reg_weights, assignment, 0.0)
        classes = labels.gather(labels.classes, assignment, self.num_classes)
        wanted = labels.gather(labels.boxes, assignment, 0.0)
        matched = assignment >= 0
        if self.varifocal:
            quality = logits.new_zeros(matched.shape)
            quality[matched] = box_overlaps(boxes.detach()[matched], wanted[matched])[0]
            rows = varifocal_rows(logits, classes, quality, self.alpha)
        else:
            rows = focal_rows(logits, classes, self.alpha)
        cls = (rows * cls_weights).sum(dim=(1, 2))
        # Rows of weight 0 are left out, because an infinite loss times 0 is NaN.
        layer, image, query = (matched & (reg_weights > 0)).nonzero(as_tuple=True)
        given, aim = boxes[layer, image, query], wanted[layer, image, query]
        weight = reg_weights[layer, image, query]
        zero = logits.new_zeros(len(logits)) + 0.0 * boxes.sum(dim=(1, 2, 3))
        l1 = zero.index_add(0, layer, (given - aim).abs().sum(-1) * weight)
        giou = zero.index_add(0, layer, (1 - box_overlaps(given, aim)[1]) * weight)
        return {
            "loss_cls": self.class_weight * cls / normalizer,
            "loss_bbox": self.l1_weight * l1 / normalizer,
            "loss_giou": self.giou_weight * giou / normalizer,
        }
