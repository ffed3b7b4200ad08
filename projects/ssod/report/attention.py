"""Finds unlabelled images that a person should look at.

At each evaluation `ssod.engine.quality_hook` writes a file with the teacher's labels of a fixed
sample of images. This module compares these files. A row is one image of such a file. Boxes are
XYXY in pixels of the image file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ssod.evaluation.pseudo_label_quality import assign_truth
from ssod.report.gallery import Boxes

# A wrong label counts as confident if its score is at least this.
CONFIDENT = 0.8
# IoU of two boxes. From the first value on they belong to the same object. Below the second value
# they have nothing to do with each other.
_SAME_OBJECT, _APART = 0.5, 0.1

Row = Dict[str, Any]


@dataclass
class Finding:
    """An image to look at.

    Attributes:
        file_name: name of the image file.
        lines: the reasons to look at it, the worst first.
        urgency: a list is sorted by it, the largest first.
        shots: the pictures, each as a caption and the boxes to draw.
    """

    file_name: str
    lines: List[str]
    urgency: float
    shots: List[Tuple[str, Boxes]]


def changed_class(quality: Mapping[int, Row]) -> List[Finding]:
    """Images on which a label kept its box and changed its class from one measurement to the next.

    Images with the most and surest changes come first. An image's pictures show its last change.

    Args:
        quality: the contents of each step's file, by step, in ascending order.
    """
    found: Dict[str, Finding] = {}
    steps = list(quality)
    for early, late in zip(steps, steps[1:]):
        names = quality[late]["classes"]
        earlier = {row["file_name"]: row for row in _rows(quality[early])}
        for after in _rows(quality[late]):
            before = earlier.get(after["file_name"])
            pairs = _class_changes(before, after) if before is not None else []
            if before is None or not pairs:
                continue
            lines = [
                f"{_label(before, a, names)} at step {early} became {_label(after, b, names)} "
                f"at step {late}"
                for a, b in pairs
            ]
            old = found.get(after["file_name"])
            found[after["file_name"]] = Finding(
                file_name=after["file_name"],
                lines=lines + (old.lines if old else []),
                urgency=sum(min(before["scores"][a], after["scores"][b]) for a, b in pairs)
                + (old.urgency if old else 0.0),
                shots=[
                    (f"step {early}", _labels(before, [a for a, _ in pairs])),
                    (f"step {late}", _labels(after, [b for _, b in pairs])),
                    *_truth(after),
                ],
            )
    return _sorted(found.values())


def confident_and_wrong(quality: Mapping[int, Row]) -> List[Finding]:
    """Images with a label of at least `CONFIDENT` that no true box of its class matches.

    Only the last measurement counts. Images whose truth is not known are left out.
    """
    findings: List[Finding] = []
    for record in list(quality.values())[-1:]:
        for row in _rows(record):
            wrong = _wrong_labels(row) if "truth_boxes" in row else []
            if wrong:
                findings.append(
                    Finding(
                        file_name=row["file_name"],
                        lines=[_why_wrong(row, i, record["classes"]) for i in wrong],
                        urgency=row["scores"][wrong[0]],
                        shots=[("wrong labels", _labels(row, wrong)), *_truth(row)],
                    )
                )
    return _sorted(findings)


def never_confident(quality: Mapping[int, Row]) -> List[Finding]:
    """Images that had no label for the main branch to train on, at any measurement. Images whose
    best candidate has the lowest score come first.
    """
    latest = {row["file_name"]: row for record in quality.values() for row in _rows(record)}
    for record in quality.values():
        for row in _rows(record):
            if row["boxes"]:
                latest.pop(row["file_name"], None)
    names = [name for record in quality.values() for name in [record["classes"]]][-1:]
    findings = []
    for file_name, row in latest.items():
        best, line = row.get("best"), "no label at any measurement"
        shots = [("the file", Boxes([], []))]
        if best:
            line += f"; the best candidate is {names[0][best['class']]} {best['score']:.2f}"
            shots = [("best candidate", Boxes([best["box"]], [best["class"]], [best["score"]]))]
        if "truth_boxes" in row:
            line += f"; {len(row['truth_boxes'])} true boxes"
        urgency = -best["score"] if best else 0.0
        findings.append(Finding(file_name, [line], urgency, shots + _truth(row)))
    return _sorted(findings)


def _sorted(findings: Any) -> List[Finding]:
    return sorted(findings, key=lambda finding: (-finding.urgency, finding.file_name))


def _rows(record: Row) -> Sequence[Row]:
    rows: Sequence[Row] = record.get("images", [])
    return rows


def _labels(row: Row, indices: Sequence[int]) -> Boxes:
    return Boxes(
        [row["boxes"][i] for i in indices],
        [row["classes"][i] for i in indices],
        [row["scores"][i] for i in indices],
    )


def _truth(row: Row) -> List[Tuple[str, Boxes]]:
    known = "truth_boxes" in row
    return [("truth", Boxes(row["truth_boxes"], row["truth_classes"]))] if known else []


def _class_changes(before: Row, after: Row) -> List[Tuple[int, int]]:
    """Pairs of an earlier and a later label of the same object whose classes differ. A label is in
    one pair at most, and only the best label of an object counts.
    """
    old, new = _best_labels(before), _best_labels(after)
    iou = box_iou(_boxes(before["boxes"])[old], _boxes(after["boxes"])[new])
    pairs = []
    for _ in range(min(iou.shape)):
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        if iou[row, column] < _SAME_OBJECT:
            break
        pair = int(old[row]), int(new[column])
        if before["classes"][pair[0]] != after["classes"][pair[1]]:
            pairs.append(pair)
        iou[row, :], iou[:, column] = -1.0, -1.0
    return pairs


def _best_labels(row: Row) -> Tensor:
    """Indices of the labels that no better label of any class overlaps."""
    return nms(_boxes(row["boxes"]), torch.tensor(row["scores"]).float(), _SAME_OBJECT)


def _wrong_labels(row: Row) -> List[int]:
    """Indices of the confident labels that are wrong, the surest first."""
    matched = assign_truth(
        _boxes(row["boxes"]),
        torch.tensor(row["classes"], dtype=torch.int64),
        torch.tensor(row["scores"], dtype=torch.float32),
        _boxes(row["truth_boxes"]),
        torch.tensor(row["truth_classes"], dtype=torch.int64),
    )
    scores: List[float] = row["scores"]
    wrong = [i for i, at in enumerate(matched.tolist()) if at < 0 and scores[i] >= CONFIDENT]
    return sorted(wrong, key=lambda i: -scores[i])


def _why_wrong(row: Row, index: int, names: Sequence[str]) -> str:
    own, label = row["classes"][index], _label(row, index, names)
    iou = box_iou(_boxes(row["boxes"][index : index + 1]), _boxes(row["truth_boxes"]))[0].tolist()
    overlaps: List[Tuple[float, int]] = list(zip(iou, row["truth_classes"]))
    best, true = max(overlaps, default=(0.0, own))
    same = max((value for value, name in overlaps if name == own), default=0.0)
    if same >= _SAME_OBJECT:
        return f"{label}: a second label of one object"
    if best >= _SAME_OBJECT:
        return f"{label}: the truth is {names[true]}"
    if same >= _APART:
        return f"{label}: the box is off (IoU {same:.2f})"
    return f"{label}: no true box is there"


def _label(row: Row, index: int, names: Sequence[str]) -> str:
    return f"{names[row['classes'][index]]} {row['scores'][index]:.2f}"


def _boxes(values: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 4)
