"""Divides labelled images into those that train, those that choose the best model, and those that
test it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import List, Sequence, Set, Tuple

from ssod.data.formats.annotated import ImageLabels
from ssod.errors import UserError
from ssod.own_data.collection import Collection


@dataclass(frozen=True)
class Parts:
    """The images of a collection by their use.

    `drawn` is True if the validation images were drawn here.

    Args:
        test: empty where the data has no test images of its own.
    """

    train: List[ImageLabels]
    val: List[ImageLabels]
    test: List[ImageLabels]
    unlabelled: List[ImageLabels]
    drawn: bool


def divide(collection: Collection, *, percent: float, seed: int) -> Parts:
    """Keeps the splits that the data names.

    If it names no validation images, they are drawn from the labelled ones.

    Args:
        percent: of the labelled images with boxes, drawn for validation.

    Raises:
        UserError: there are too few labelled images to train and validate.
    """
    labelled = [photo for photo in collection.labelled() if photo.size]
    test = [photo for photo in labelled if photo.split == "test"]
    val = [photo for photo in labelled if photo.split == "val"]
    train = [photo for photo in labelled if photo.split not in ("test", "val")]
    unlabelled = [p for p in collection.unlabelled() if p.split not in ("test", "val") and p.size]
    if test and not any(photo.boxes for photo in test):
        test = []
    drawn = not any(photo.boxes for photo in val)
    if drawn:
        train, val = _draw(collection, train, percent, seed)
    if not any(photo.boxes for photo in train) or not any(photo.boxes for photo in val):
        count = sum(bool(photo.boxes) for photo in labelled)
        raise UserError(
            f"{collection.root} has {count} labelled images with boxes that can be read: label at least two, so that one "
            "can train and one can validate."
        )
    return Parts(train, val, test, unlabelled, drawn)


def _draw(
    collection: Collection, labelled: Sequence[ImageLabels], percent: float, seed: int
) -> Tuple[List[ImageLabels], List[ImageLabels]]:
    """(train, val).

    Images go to val in random order, except those that hold a class's last boxes in train.
    """

    def key(photo: ImageLabels) -> str:
        return hashlib.sha256(f"{seed}/{photo.path}".encode()).hexdigest()

    with_boxes = [photo for photo in labelled if photo.boxes]
    wanted = max(1, round(len(with_boxes) * percent / 100))
    left = Counter(box.label for photo in with_boxes for box in photo.boxes or ())
    val: List[ImageLabels] = []
    chosen: Set[str] = set()
    shown: Set[str] = set()
    ordered = sorted(with_boxes, key=key)
    for brings_a_class in (True, False):  # first images of classes that val does not show yet
        for photo in ordered:
            inside = Counter(box.label for box in photo.boxes or ())
            if len(val) == wanted or photo.path in chosen:
                continue
            if brings_a_class and not inside.keys() - shown:
                continue
            if all(left[label] > count for label, count in inside.items()):
                val.append(photo)
                chosen.add(photo.path)
                shown |= inside.keys()
                left -= inside
    if not val and len(with_boxes) > 1:  # every image has the only box of some class
        val = ordered[:1]
        chosen = {val[0].path}
    return [p for p in labelled if p.path not in chosen], sorted(val, key=lambda p: p.path)
