"""Describes a collection of labelled images: counts, sizes, classes, and boxes that may be
mistakes.

Sizes are in pixels; a box's size is the square root of its area.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np
from tabulate import tabulate

from ssod.data.formats.annotated import ImageLabels, LabelledBox
from ssod.data.masks import mask_area
from ssod.own_data.collection import Collection

_THIN = 3.0  # pixels of the shorter side
_WHOLE = 0.95  # of the image's area
_LONG = 10.0  # ratio of the sides
_SAME = 0.9  # IoU
_FEW = 10  # boxes of a class
_LISTED = 5


@dataclass(frozen=True)
class Odd:
    """Boxes of one kind of oddity.

    `examples` are "image: class x0,y0,x1,y1"; training still uses these boxes.
    """

    what: str
    count: int
    examples: List[str]
    photos: List[ImageLabels]


@dataclass(frozen=True)
class Examination:
    """The numbers, each over images and boxes that training can use.

    Args:
        boxes, images_of: per class, boxes and images that show it.
        image_sizes: (N, 2) heights and widths. box_sizes: (M,) pixels. relative_sizes: (M,) of the
            image's shorter side.
    """

    boxes: Dict[str, int]
    images_of: Dict[str, int]
    image_sizes: np.ndarray
    box_sizes: np.ndarray
    relative_sizes: np.ndarray
    odd: List[Odd]
    unreadable: List[str]


def examine(collection: Collection) -> Examination:
    """Looks at every box once."""
    boxes: Counter = Counter({name: 0 for name in collection.classes})
    images_of: Counter = Counter()
    sizes, relative = [], []
    for photo in collection.labelled():
        found = [box for box in photo.boxes or () if not box.iscrowd]
        boxes.update(box.label for box in found)
        images_of.update({box.label for box in found})
        for box in found:
            sizes.append(_size(box))
            if photo.size:
                relative.append(_size(box) / min(photo.size))
    return Examination(
        boxes=dict(boxes),
        images_of=dict(images_of),
        image_sizes=np.array([p.size for p in collection.photos if p.size]).reshape(-1, 2),
        box_sizes=np.array(sizes),
        relative_sizes=np.array(relative),
        odd=find_odd(collection),
        unreadable=[photo.path for photo in collection.photos if photo.size is None],
    )


def _sides(box: LabelledBox) -> Tuple[float, float]:
    x0, y0, x1, y1 = box.corners
    return x1 - x0, y1 - y0


def _size(box: LabelledBox) -> float:
    width, height = _sides(box)
    return (width * height) ** 0.5


def oddities(box: LabelledBox, photo: ImageLabels) -> List[str]:
    """The oddities of one box, looked at without the others."""
    width, height = _sides(box)
    found = []
    if min(width, height) < _THIN:
        found.append(f"thinner than {_THIN:g} pixels")
    if max(width, height) > _LONG * min(width, height):
        found.append(f"more than {_LONG:g} times as long as wide")
    if photo.size:
        image_height, image_width = photo.size
        x0, y0, x1, y1 = box.corners
        if min(x0, y0) < -1 or x1 > image_width + 1 or y1 > image_height + 1:
            found.append("partly outside of the image (it is clipped)")
        if width * height > _WHOLE * image_height * image_width:
            found.append("around nearly the whole image")
    return found


def find_odd(collection: Collection) -> List[Odd]:
    """All kinds of oddities, the most frequent first."""
    kinds: Dict[str, List[Tuple[ImageLabels, LabelledBox]]] = {}
    for photo in collection.labelled():
        boxes = [box for box in photo.boxes or () if not box.iscrowd]
        for box in boxes:
            for kind in oddities(box, photo):
                kinds.setdefault(kind, []).append((photo, box))
        for box in _doubles(boxes):
            kinds.setdefault("twice at the same place", []).append((photo, box))
    odd = []
    for what, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        examples = [_describe(collection, *pair) for pair in found[:_LISTED]]
        odd.append(Odd(what, len(found), examples, [photo for photo, _ in found]))
    return odd


def _doubles(boxes: Sequence[LabelledBox]) -> List[LabelledBox]:
    """Boxes that nearly equal an earlier box of the image. The class does not matter."""
    if len(boxes) < 2:
        return []
    corners = np.array([box.corners for box in boxes])
    top, bottom = corners[:, None, :2], corners[:, None, 2:]
    sides = np.minimum(bottom, corners[:, 2:]) - np.maximum(top, corners[:, :2])
    inside = np.clip(sides, 0, None).prod(axis=2)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    overlap = inside / (areas[:, None] + areas - inside)
    earlier = np.tril(overlap, k=-1).max(axis=1)
    return [box for box, value in zip(boxes, earlier) if value > _SAME]


def _describe(collection: Collection, photo: ImageLabels, box: LabelledBox) -> str:
    corners = ",".join(f"{v:.0f}" for v in box.corners)
    return f"{photo.path}: {box.label} {corners}"


def describe(collection: Collection, seen: Examination) -> str:
    """The report as text."""
    labelled = collection.labelled()
    empty = sum(not photo.boxes for photo in labelled)
    lines = [
        f"format      {', '.join(collection.formats)}",
        f"images      {len(collection.photos)}: {len(labelled) - empty} with boxes, "
        f"{empty} labelled as empty, {len(collection.unlabelled())} without labels",
    ]
    splits = Counter(photo.split or "none named" for photo in collection.photos)
    if set(splits) != {"none named"}:
        parts = ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
        lines.append(f"splits      {parts}")
    if len(seen.image_sizes):
        lines.append(f"image size  {_image_sizes(seen.image_sizes)}")
    if len(seen.box_sizes):
        lines.append(
            f"box size    {_percentiles(seen.box_sizes, '{:.0f}')} pixels (square root of the area)"
        )
        percent = _percentiles(100 * seen.relative_sizes, "{:.0f}")
        lines.append(f"            {percent} % of the image's shorter side")
    masks = [box for photo in labelled for box in photo.boxes or () if box.mask]
    if masks:
        shares = [mask_area(box.mask) / max(_size(box) ** 2, 1.0) for box in masks if box.mask]
        percent = _percentiles(100 * np.array(shares), "{:.0f}")
        lines.append(f"masks       {len(masks)}; they fill {percent} % of their boxes")
    rows = [[n, seen.boxes[n], seen.images_of.get(n, 0)] for n in collection.classes]
    if rows:
        lines += ["", tabulate(rows, headers=["class", "boxes", "images"]), ""]
    for message in collection.messages:
        lines.append(f"note        {message}")
    few = [f"{name} ({count})" for name, count in seen.boxes.items() if count < _FEW]
    if few:
        lines.append(f"few boxes   {', '.join(few[:20])}{', ...' if len(few) > 20 else ''}")
    for odd in seen.odd:
        more = ", ..." if odd.count > len(odd.examples) else ""
        lines.append(f"odd         {odd.count} boxes {odd.what}: {'; '.join(odd.examples)}{more}")
    if seen.unreadable:
        names = ", ".join(seen.unreadable[:_LISTED])
        more = ", ..." if len(seen.unreadable) > _LISTED else ""
        lines.append(f"unreadable  {len(seen.unreadable)} images: {names}{more}")
    return "\n".join(lines).rstrip()


def _percentiles(values: np.ndarray, form: str) -> str:
    low, middle, high = (form.format(v) for v in np.percentile(values, [5, 50, 95]))
    return f"{low} to {high}, median {middle}"


def _image_sizes(sizes: np.ndarray) -> str:
    """Width x height, the smallest and largest by area."""
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    small, large = (f"{w} x {h}" for h, w in sizes[order[[0, -1]]])
    return small if small == large else f"{small} to {large}"
