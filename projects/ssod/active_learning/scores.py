"""What a label of an image would teach, judged by the detections on it.

Shapes: K classes, M detections of one image with scores from 0 to 1; boxes are XYXY in pixels.

**Uncertainty.** H(s) = -s log2 s - (1 - s) log2 (1 - s) is the entropy, in bits, of a detection of
score s that is either right or wrong. A class's uncertainty is that of its least certain detection,
an image's is the sum over the classes: the maximum and the sum are two of the aggregations that
Brust, Käding and Denzler compare (VISAPP 2019); summed entropies are what Yang, Huang and Crowley
calibrate by class (CVPR 2024).

**Disagreement.** Detections of two models are matched one to one within a class by IoU. The
disagreement is one minus the weighted Jaccard index (Ruzicka's) of the two sets,

    D = 1 - sum_matched IoU min(s, t) / (sum_matched max(s, t) + sum_unmatched s),

which is 0 for equal detections and for two empty sets, and 1 where nothing matches. Asking two
models where they differ is query by committee (Seung, Opper and Sompolinsky, COLT 1992; for
detectors Roy, Unmesh and Namboodiri, BMVC 2018).

**Rarity.** A class of which the labelled set has n of N boxes weighs
w = log((1 + N) / (1 + n)) / log(1 + N): 1 without any box, near 0 for a class that has nearly all.
This is the inverse document frequency (Spärck Jones, 1972) of boxes, scaled. An image's rarity is
the sum over the classes of w times the highest score of the class.
"""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_iou


def entropy(scores: Tensor) -> Tensor:
    """H of each score, in bits.

    Example:
        >>> entropy(torch.tensor([0.0, 0.5, 1.0])).abs().tolist()
        [0.0, 1.0, 0.0]
    """
    p = scores.double().clamp(0, 1)
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / torch.log(torch.tensor(2.0).double())


def highest_of_class(values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """(K,) float64: the highest of the values (M,) of each class, 0 where it has none.

    Example:
        >>> highest_of_class(torch.tensor([0.2, 0.7, 0.4]), torch.tensor([0, 0, 2]), 3)
        tensor([0.7000, 0.0000, 0.4000], dtype=torch.float64)
    """
    found = torch.zeros(num_classes, dtype=torch.float64)
    return found.scatter_reduce(0, classes.long(), values.double(), "amax")


def class_uncertainty(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """(K,) float64: the entropy of each class's least certain detection, 0 without any."""
    return highest_of_class(entropy(scores), classes, num_classes)


def class_weights(boxes: Tensor) -> Tensor:
    """w of each class: boxes (K,) are those of the labelled set. All 0 where it has none.

    Example:
        >>> class_weights(torch.tensor([7, 0])).tolist()
        [0.0, 1.0]
    """
    counts = boxes.double()
    total = torch.log1p(counts.sum())
    return (total - torch.log1p(counts)) / total if total > 0 else torch.zeros_like(counts)


def rarity(presence: Tensor, weights: Tensor) -> Tensor:
    """(...): the sum of w (K,) times the highest score of each class, (..., K)."""
    return presence.double() @ weights


def disagreement(first: Instances, second: Instances, iou_threshold: float = 0.5) -> float:
    """D of two models' detections (pred_boxes, scores, pred_classes) on one image.

    Args:
        iou_threshold: matched detections overlap by at least this. The pairs that overlap most are
            matched first.
    """
    a, b = first.scores.double(), second.scores.double()
    union = float(a.sum() + b.sum())
    if union == 0:
        return 0.0
    shared = 0.0
    for i, j, iou in matches(first, second, iou_threshold):
        lower, higher = sorted((float(a[i]), float(b[j])))
        shared += iou * lower
        union -= lower  # of a matched pair only the higher score counts
    return max(0.0, 1.0 - shared / union)


def matches(first: Instances, second: Instances, iou_threshold: float) -> list[tuple]:
    """(index, index, IoU) of detections of the same class, matched one to one."""
    if not len(first) or not len(second):
        return []
    iou = box_iou(first.pred_boxes.tensor.double(), second.pred_boxes.tensor.double())
    same = first.pred_classes[:, None] == second.pred_classes[None, :]
    pairs = torch.nonzero(same & (iou >= iou_threshold))
    values = iou[pairs[:, 0], pairs[:, 1]]
    order = torch.argsort(values, descending=True, stable=True)
    taken_first, taken_second, found = set(), set(), []
    for (i, j), value in zip(pairs[order].tolist(), values[order].tolist()):
        if i not in taken_first and j not in taken_second:
            taken_first.add(i)
            taken_second.add(j)
            found.append((i, j, value))
    return found
