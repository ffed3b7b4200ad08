"""How far a teacher's scores can be trusted: the share of right boxes and right classes by score.

Shapes: M detections and T true boxes of one image, S score limits. Boxes are XYXY in pixels of the
same image.
"""

from __future__ import annotations

from collections import Counter
from typing import Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

# Detections of one object under several classes overlap at least this much; the best one counts.
_SAME_OBJECT = 0.6
LIMITS = (0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
# Classes are compared from this score on; a table lists so many of them.
CLASS_SCORE = 0.7
_LISTED = 20


class Reliability(NamedTuple):
    """Sums over images. The sums of two sets of images can be added.

    Attributes:
        found: (S,) objects that the teacher reports with at least the score. on_object: (S,) those
            that lie on a true object. right_class: (S,) those of them whose class is right.
        of_class: true class -> objects. named: (true class, class of the detection on it) ->
            objects that are reported with `CLASS_SCORE` or more.
    """

    found: Tensor
    on_object: Tensor
    right_class: Tensor
    of_class: Counter[int]
    named: Counter[Tuple[int, int]]

    @property
    def truth(self) -> int:
        """All true objects."""
        return sum(self.of_class.values())

    def plus(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.found + other.found,
            self.on_object + other.on_object,
            self.right_class + other.right_class,
            self.of_class + other.of_class,
            self.named + other.named,
        )


def measure_reliability(
    boxes: Tensor,
    classes: Tensor,
    scores: Tensor,
    truth_boxes: Tensor,
    truth_classes: Tensor,
    limits: Sequence[float] = LIMITS,
    iou_threshold: float = 0.5,
) -> Reliability:
    """Measures one image.

    Of overlapping detections only the best one counts, whatever their classes. It is matched with
    the free true box that it overlaps most, of any class.

    Args:
        boxes: (M, 4). classes, scores: (M,). truth_boxes: (T, 4). truth_classes: (T,).
        limits: S scores. iou_threshold: a detection with this IoU or more lies on an object.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> found = measure_reliability(
        ...     box, torch.tensor([1]), torch.tensor([0.6]), box, torch.tensor([2]), (0.5, 0.7)
        ... )
        >>> found.on_object.tolist(), found.right_class.tolist()
        ([1, 0], [0, 0])
    """
    # Stable: equal scores keep their order.
    order = torch.argsort(scores, descending=True, stable=True)
    boxes, classes, scores = boxes[order].float(), classes[order], scores[order].float()
    kept = nms(boxes, scores, _SAME_OBJECT)
    boxes, classes, scores = boxes[kept], classes[kept], scores[kept]
    on_object = torch.zeros(len(boxes), dtype=torch.bool)
    right = torch.zeros(len(boxes), dtype=torch.bool)
    named: Counter[Tuple[int, int]] = Counter()
    if len(boxes) and len(truth_boxes):
        iou = box_iou(boxes, truth_boxes.float())
        for row in range(len(boxes)):
            best, column = iou[row].max(dim=0)
            if best >= iou_threshold:
                on_object[row] = True
                right[row] = classes[row] == truth_classes[column]
                if scores[row] >= CLASS_SCORE:
                    named[int(truth_classes[column]), int(classes[row])] += 1
                iou[:, column] = -1.0
    above = scores[None, :] >= torch.tensor(list(limits))[:, None]
    return Reliability(
        found=above.sum(dim=1),
        on_object=(above & on_object).sum(dim=1),
        right_class=(above & right).sum(dim=1),
        of_class=Counter(truth_classes.tolist()),
        named=named,
    )


def format_reliability(found: Reliability, limits: Sequence[float] = LIMITS) -> str:
    """A Markdown table with a row a limit."""
    lines = [
        "| score from | objects reported | on an object | class right, of these | objects found |"
    ]
    lines.append("|---:" * 5 + "|")
    columns: Tuple[List[int], ...] = tuple(v.tolist() for v in found[:3])
    for limit, number, on_object, right in zip(limits, *columns):
        cells = [
            _share(on_object, number),
            _share(right, on_object),
            _share(on_object, found.truth),
        ]
        lines.append(f"| {limit:g} | {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_classes(found: Reliability, classes: Sequence[str]) -> str:
    """A Markdown table of the true classes, with the class that each is mistaken for most often.

    Of more than 20 classes it lists those with the most mistakes.
    """
    mistaken: Dict[int, Counter[int]] = {k: Counter() for k in found.of_class}
    reported: Counter[int] = Counter()
    for (true, label), number in found.named.items():
        reported[true] += number
        if label != true:
            mistaken[true][label] += number
    rows = sorted(found.of_class)
    if len(rows) > _LISTED:
        rows = sorted(rows, key=lambda k: -sum(mistaken[k].values()))[:_LISTED]
    head = f"| class | objects | reported from {CLASS_SCORE:g} | class right, of these | most often taken for |"
    lines = [head, "|---|---:|---:|---:|---|"]
    for k in rows:
        right = _share(found.named[k, k], reported[k])
        wrong = [
            f"{classes[label]} ({_share(n, reported[k])})"
            for label, n in mistaken[k].most_common(1)
        ]
        share = _share(reported[k], found.of_class[k])
        cells = [classes[k], str(found.of_class[k]), share, right, *(wrong or ["–"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"
