"""Measures pseudo-labels against the truth of the same images.

Shapes: M pseudo-labels and T true boxes of one image, K classes. Boxes are XYXY in pixels of the
same image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, Dict, Iterable, List, Optional, Sequence

import torch
from pycocotools import mask as mask_util
from torch import Tensor
from torchvision.ops import box_iou

from ssod.data.masks import Rle


def match_labels(
    boxes: Tensor,
    classes: Tensor,
    scores: Tensor,
    truth_boxes: Tensor,
    truth_classes: Tensor,
    iou_threshold: float = 0.5,
) -> Tensor:
    """The IoU of each pseudo-label with the true box that `assign_truth` gives it.

    Args:
        boxes: (M, 4). classes, scores: (M,). truth_boxes: (T, 4). truth_classes: (T,).

    Returns:
        (M,) float IoU with the matched true box; 0 where there is none.
    """
    found = assign_truth(boxes, classes, scores, truth_boxes, truth_classes, iou_threshold)
    matched = torch.zeros(len(boxes))
    rows = (found >= 0).nonzero().flatten()
    if len(rows):
        iou = box_iou(boxes.detach().float().cpu(), truth_boxes.detach().float().cpu())
        matched[rows] = iou[rows, found[rows]]
    return matched


def assign_truth(
    boxes: Tensor,
    classes: Tensor,
    scores: Tensor,
    truth_boxes: Tensor,
    truth_classes: Tensor,
    iou_threshold: float = 0.5,
) -> Tensor:
    """Matches pseudo-labels to true boxes of their class, one to one, greedily by descending score.

    Each label takes the free true box that it overlaps most, if their IoU is at least the
    threshold. Equal scores keep their order.

    Args:
        boxes: (M, 4). classes, scores: (M,). truth_boxes: (T, 4). truth_classes: (T,).

    Returns:
        (M,) int64 index of the matched true box on the CPU; -1 where there is none.
    """
    matched = torch.full((len(boxes),), -1, dtype=torch.int64)
    if not len(boxes) or not len(truth_boxes):
        return matched
    iou = box_iou(boxes.detach().float().cpu(), truth_boxes.detach().float().cpu())
    iou[classes.cpu()[:, None] != truth_classes.cpu()[None, :]] = -1.0
    for row in torch.argsort(scores.detach().cpu(), descending=True, stable=True).tolist():
        best, column = iou[row].max(dim=0)
        if best >= iou_threshold:
            matched[row] = column
            iou[:, column] = -1.0
    return matched


def mask_ious(
    matched: Tensor, masks: Sequence[Rle], truth_masks: Sequence[Optional[Rle]]
) -> List[float]:
    """The IoU of the masks of matched pairs, by pixels.

    Args:
        matched: (M,) of `assign_truth`. masks: M. truth_masks: T; pairs with an unknown true mask
            are left out.
    """
    found = []
    for mask, index in zip(masks, matched.tolist()):
        truth = truth_masks[index] if index >= 0 else None
        if truth is not None:
            found.append(float(mask_util.iou([mask], [truth], [0])[0, 0]))
    return found


@dataclass(frozen=True)
class LabelCounts:
    """Sums over images, for each class. The sums of two sets of images can be added.

    Attributes:
        labels: (K,) pseudo-labels. truth: (K,) true boxes. matched: (K,) pairs of them. iou: (K,)
            sum of the pairs' IoU.
    """

    labels: Tensor
    truth: Tensor
    matched: Tensor
    iou: Tensor

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts(
            self.labels + other.labels,
            self.truth + other.truth,
            self.matched + other.matched,
            self.iou + other.iou,
        )

    @property
    def precision(self) -> Tensor:
        """(K,) share of the pseudo-labels that are right; NaN for a class without any."""
        return self.matched / self.labels

    @property
    def recall(self) -> Tensor:
        """(K,) share of the true boxes that have a pseudo-label; NaN for a class without any."""
        return self.matched / self.truth

    @property
    def mean_iou(self) -> Tensor:
        """(K,) of the right pseudo-labels; NaN for a class without any."""
        return self.iou / self.matched

    def total(self) -> "LabelCounts":
        """All classes as one: K = 1."""
        return LabelCounts(*(v.sum(dim=0, keepdim=True) for v in vars(self).values()))


def count_labels(
    boxes: Tensor,
    classes: Tensor,
    scores: Tensor,
    truth_boxes: Tensor,
    truth_classes: Tensor,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> LabelCounts:
    """The counts of one image; arguments as in `match_labels`.

    Class indices lie in 0..num_classes-1.
    """
    iou = match_labels(boxes, classes, scores, truth_boxes, truth_classes, iou_threshold)
    iou, classes = iou.double(), classes.cpu()
    zeros = torch.zeros(num_classes, dtype=torch.float64)
    return LabelCounts(
        labels=zeros.index_add(0, classes, torch.ones_like(iou)),
        truth=torch.bincount(truth_classes.cpu(), minlength=num_classes).double(),
        matched=zeros.index_add(0, classes, (iou > 0).double()),
        iou=zeros.index_add(0, classes, iou),
    )


def sum_counts(counts: Iterable[LabelCounts], num_classes: int) -> LabelCounts:
    """The sum over images; zeros for no image."""
    zeros = torch.zeros(num_classes, dtype=torch.float64)
    return reduce(LabelCounts.__add__, counts, LabelCounts(zeros, zeros, zeros, zeros))


def class_divergence(labels: Tensor, truth: Tensor, smoothing: float = 1.0) -> float:
    """KL(truth || pseudo-labels) of the two class distributions, in nats: 0 where they agree.

    This direction is high if an existing class gets too few pseudo-labels, which is the imbalance
    that ACRST plots (Fig. 5b). `smoothing` is added to every count of both, so that the result
    stays finite for a class without pseudo-labels.

    Args:
        labels, truth: (K,) counts.

    Returns:
        The divergence; NaN if there are no pseudo-labels or no truth at all.

    Example:
        >>> class_divergence(torch.tensor([5, 5]), torch.tensor([50, 50]))
        0.0
    """
    labels, truth = labels.double(), truth.double()
    if labels.sum() == 0 or truth.sum() == 0:
        return float("nan")
    q, p = labels + smoothing, truth + smoothing
    q, p = q / q.sum(), p / p.sum()
    return float((p * (p / q).log()).sum())


def summarise(counts: LabelCounts, class_names: Sequence[str]) -> Dict[str, Any]:
    """Plain numbers for a file.

    Returns:
        "precision", "recall", "mean_iou" over all boxes, "kl" (`class_divergence`), and
        "per_class": {name: {"precision", "recall", "mean_iou", "count", "truth"}}. NaN where a
        ratio has no denominator.
    """

    def numbers(values: LabelCounts) -> List[Dict[str, float]]:
        columns = {
            "precision": values.precision,
            "recall": values.recall,
            "mean_iou": values.mean_iou,
            "count": values.labels,
            "truth": values.truth,
        }
        rows = zip(*(column.tolist() for column in columns.values()))
        return [dict(zip(columns, row)) for row in rows]

    return {
        **numbers(counts.total())[0],
        "kl": class_divergence(counts.labels, counts.truth),
        "per_class": dict(zip(class_names, numbers(counts))),
    }
