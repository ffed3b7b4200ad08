"""The records of a large COCO file as columns, without a dict for each image or annotation.

It reads plain files alone: whole numbers as ids, sizes and crowd flags, four numbers as boxes. For
anything else it gives up (`Irregular`), and `CocoSet` reads the file as it reads small ones. What
both read is equal, messages included.

Shapes: n images and a annotations of the file, in the file's order; A annotations that are kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List

import numpy as np
from detectron2.structures import BoxMode

from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBoxes, box_problems
from ssod.data.coco_blocks import BoxBlocks, ImageBlocks, ascend, decoders_of
from ssod.data.coco_content import category_map, tidy_categories
from ssod.data.coco_schema import check_structure
from ssod.data.columns import Choices, Column, Lists, Maybe, Numbers, Table, ends_of, smallest
from ssod.data.json_lists import Irregular, lists_of
from ssod.data.packed import PackedRecords, Part
from ssod.data.paths_column import PathsBuilder
from ssod.errors import UserError


@dataclass
class CocoColumns:
    """What was read.

    Attributes:
        records: in the order of the image ids.
        categories: by class index, unchanged. [] if labels were not read.
        conforming: whether COCO's own evaluation may read the file.
    """

    records: PackedRecords
    categories: List[Dict[str, Any]] = field(default_factory=list)
    conforming: bool = False


def read_columns(path: str, root: str, *, labeled: bool) -> CocoColumns:
    """The images of a file, and their labels if asked for. Unusable boxes are skipped and reported.

    Args:
        root: the folder of the images.

    Raises:
        Irregular: the file has parts that need the ordinary reader.
    """
    if not os.path.isdir(root):
        raise Irregular(root)
    images, boxes = ImageBlocks(PathsBuilder(root, compared=labeled)), BoxBlocks()
    categories: List[Dict[str, Any]] = []
    for key, entries in lists_of(path, decoders_of(labeled)):
        if key == "images":
            images.add(entries)
        elif key == "annotations" and labeled:
            boxes.add(entries)
        elif key == "categories" and labeled:
            categories += entries
    images.finish()
    if not labeled:
        return CocoColumns(PackedRecords([Part(images.table(), images.order)]))
    return _with_labels(path, images, boxes, categories)


def _with_labels(
    path: str, images: ImageBlocks, boxes: BoxBlocks, categories: List[Dict[str, Any]]
) -> CocoColumns:
    try:
        check_structure(path, {"categories": categories}, ("categories",))
        tidy_categories(categories)
        mapping = category_map(path, categories)
    except UserError as error:  # the ordinary reader may find another fault first
        raise Irregular(str(error)) from None
    boxes.finish()
    if images.has_repeated_files() or not all(type(c["id"]) is int for c in categories):
        raise Irregular("repeated files, or ids of categories that are texts")
    place = images.places_of(boxes.images)
    classes = _class_indices(boxes.categories, {key: value[0] for key, value in mapping.items()})
    listed = place >= 0
    if (classes[listed] < 0).any():
        raise Irregular("a category that the file does not list")
    sizes_given = bool((images.heights > 0).all())
    images.read_missing_sizes()
    corners = boxes.corners()
    height, width = images.heights[place], images.widths[place]
    layout = BoxLayout(path)
    layout.add_all(corners[listed], height[listed], width[listed])
    problems = box_problems(corners, height, width)
    kept = listed.copy()
    kept[list(problems)] = False
    skipped = SkippedBoxes(path)
    names = images.table().columns["file_name"]
    for number in np.flatnonzero(~kept).tolist():
        if not listed[number]:
            skipped.add(boxes.label(number), "of images that the file does not list")
        else:
            name = names.span(int(place[number]), int(place[number]) + 1)[0]
            skipped.add(boxes.label(number), problems[number], name)
    conforming = (
        sizes_given and bool(listed.all()) and _conforms(boxes, categories) and not _odd(corners)
    )
    del corners, height, width
    layout.check()
    skipped.report()
    annotations = _annotations(boxes, place, classes, kept, len(images.ids))
    part = Part(images.table(annotations), images.order)
    ordered = sorted(categories, key=lambda c: c["id"])
    return CocoColumns(PackedRecords([part]), ordered, conforming)


def _class_indices(categories: np.ndarray, indices: Dict[int, int]) -> np.ndarray:
    """The class index of each category id, -1 if there is none."""
    found = np.full(len(categories), -1, dtype=np.int16 if len(indices) < 2**15 else np.int64)
    keys = np.array(sorted(indices), dtype=np.int64)
    values = np.array([indices[key] for key in keys.tolist()], dtype=found.dtype)
    if len(keys):
        place = np.minimum(np.searchsorted(keys, categories), len(keys) - 1)
        there = keys[place] == categories
        found[there] = values[place[there]]
    return found


def _annotations(
    boxes: BoxBlocks, place: np.ndarray, classes: np.ndarray, kept: np.ndarray, images: int
) -> Lists:
    """The kept annotations as the lists of the images, each in the file's order."""
    number = np.flatnonzero(kept)
    number = number[np.argsort(place[number], kind="stable")]
    counts = np.bincount(place[number], minlength=images)
    own = boxes.boxes[number]
    columns: Dict[str, Column] = {
        "bbox": Lists(Numbers(own.reshape(-1)), 4, len(own)),
        "bbox_mode": Choices([BoxMode.XYWH_ABS], len(own)),
        "category_id": Numbers(smallest(classes[number])),
        "iscrowd": Numbers(boxes.crowds[number]),
    }
    areas = boxes.areas[number]
    # An area of its own is a mask's.
    masks = np.isfinite(areas) & (areas > 0) & (areas != own[:, 2] * own[:, 3])
    if masks.any():
        columns["area"] = Maybe(Numbers(areas[masks]), ends_of(masks))
    return Lists(Table(columns, len(own)), ends_of(counts), images)


def _odd(corners: np.ndarray) -> bool:
    """Whether a box has no area or lies left of or above every image."""
    nothing = np.zeros(len(corners), dtype=np.int64)
    return bool(box_problems(corners, nothing, nothing))


def _conforms(boxes: BoxBlocks, categories: List[Dict[str, Any]]) -> bool:
    return bool(
        boxes.has_id.all()
        and (boxes.ids > 0).all()
        and (ascend(boxes.ids) or ascend(np.sort(boxes.ids)))
        and (boxes.areas > 0).all()
        and boxes.all_flagged
    )
