"""Reads stored pseudo-labels, a COCO-format JSON with scores, into the records of unlabelled
images.

Shapes: M labels of one image; boxes are XYXY in absolute pixels of the image file.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.coco_content import category_map, corners, read_coco
from ssod.data.masks import NO_MASK, Rle, read_mask
from ssod.data.packed import PackedRecords, column_of
from ssod.data.records import Record
from ssod.errors import UserError

logger = logging.getLogger(__name__)
_KEY = "SSOD.PSEUDO_LABELS"


def attach_stored_labels(
    records: Sequence[Dict[str, Any]],
    path: str,
    class_names: Sequence[str],
    *,
    masks: bool = False,
) -> PackedRecords:
    """Gives each record its stored labels and leaves out the images that the file does not list.

    The file lists every image that was labelled. If a listed image has no labels, nothing was found
    in it. An image that is not listed (damaged, or not selected for this phase) must not count as
    empty.

    Args:
        records: records of unlabelled images. path: the file. Images are found by file name (the
            end of the path suffices), classes by name. masks: whether labels need masks too.

    Returns:
        New records with "stored": {"boxes": (M, 4) float32, "scores": (M,) float32, "classes": (M,)
        int64}. With `masks` they also have "masks": M `Rle`.

    Raises:
        UserError: the file is missing or broken, lists images or classes that are not among those
            of training, or has no masks although they are needed.
    """
    content = read_coco(path, ("images", "annotations", "categories"))
    known = {name: index for index, name in enumerate(class_names)}
    classes: Dict[Any, int] = {}
    for category, (_, name) in category_map(path, content["categories"]).items():
        if name not in known:
            raise UserError(
                f"{_KEY} {path} has the class {name!r}, which DATASETS.TRAIN has not: label with a model of these classes."
            )
        classes[category] = known[name]
    owner = _match(records, content["images"], path)
    rows, outlines = _rows(content, classes, path, masks)
    found = []
    for image in content["images"]:
        table = np.asarray(rows[image["id"]], dtype=np.float32).reshape(-1, 6)
        stored: Dict[str, Any] = {
            "boxes": table[:, :4],
            "scores": table[:, 4],
            "classes": table[:, 5].astype(np.int64),
        }
        if masks:
            stored["masks"] = outlines[image["id"]]
        found.append((owner[image["id"]], stored))
    # Keep the order of the records, because it decides which images the sampler draws.
    kept: List[Dict[str, Any]] = []
    for index, stored in sorted(found, key=lambda pair: pair[0]):
        kept.append(Record(records[index], stored=stored))
    boxes = sum(len(record["stored"]["boxes"]) for record in kept)
    logger.info(
        f"{path}: {boxes} labels of {len(kept)} images; {len(records) - len(kept)} unlabelled images are not in it "
        "and left out."
    )
    return PackedRecords.of(kept)


def _match(
    records: Sequence[Dict[str, Any]], images: Sequence[Dict[str, Any]], path: str
) -> Dict[Any, int]:
    """Image id of the file -> index of the record whose path ends with the image's file name."""
    by_name: Dict[str, Any] = {}
    for image in images:
        name = os.path.normpath(image["file_name"].replace("\\", "/"))
        if name in by_name:
            raise UserError(f"{_KEY} {path} lists {image['file_name']} twice: remove one.")
        by_name[name] = image["id"]
    owner: Dict[Any, int] = {}
    for index, file_name in enumerate(column_of(records, "file_name")):
        name = next((end for end in _endings(file_name) if end in by_name), None)
        if name is None:
            continue
        if by_name[name] in owner:
            first = records[owner[by_name[name]]]["file_name"]
            raise UserError(
                f"{_KEY} {path}: {name} may be {first} or {file_name}: write longer file names."
            )
        owner[by_name[name]] = index
    unknown = [name for name, image_id in by_name.items() if image_id not in owner]
    if unknown:
        raise UserError(
            f"{_KEY} {path} lists {len(unknown)} images that are not in DATASETS.UNLABELED, such as {unknown[0]}: "
            "make the labels for this set."
        )
    return owner


def _endings(file_name: str) -> Iterator[str]:
    """The normalised absolute path, then shorter and shorter ends of it down to the bare name."""
    full = os.path.abspath(file_name)
    yield full
    parts = full.lstrip(os.sep).split(os.sep)
    for start in range(len(parts)):
        yield os.sep.join(parts[start:])


def _rows(
    content: Dict[str, Any], classes: Dict[Any, int], path: str, masks: bool
) -> Tuple[Dict[Any, List[List[float]]], Dict[Any, List[Rle]]]:
    """Image id -> rows of x0, y0, x1, y1, score, class, and image id -> the rows' masks."""
    sizes = {i["id"]: (i.get("height"), i.get("width")) for i in content["images"]}
    rows: Dict[Any, List[List[float]]] = {image_id: [] for image_id in sizes}
    outlines: Dict[Any, List[Rle]] = {image_id: [] for image_id in sizes}
    skipped = SkippedBoxes(path)
    for annotation in content["annotations"]:
        label = f"annotation {annotation.get('id')}"
        own = rows.get(annotation["image_id"])
        category = classes.get(annotation["category_id"])
        if own is None:
            raise UserError(f"{_KEY} {path}: {label} is of an image that is not listed: remove it.")
        if category is None:
            raise UserError(
                f"{_KEY} {path}: {label} has category_id {annotation.get('category_id')!r}, which is not in "
                '"categories": correct it.'
            )
        score = annotation.get("score")
        if type(score) not in (int, float) or not 0.0 <= score <= 1.0:
            raise UserError(
                f'{_KEY} {path}: {label} has no "score" between 0 and 1: add it (human labels belong in DATASETS.TRAIN).'
            )
        box = corners(annotation.get("bbox"))
        problem = box_problem(box, *sizes[annotation["image_id"]])
        if problem:
            skipped.add(label, problem)
            continue
        if masks:
            size = sizes[annotation["image_id"]]
            rle, problem = read_mask(annotation.get("segmentation"), box, *size)
            if rle is None:
                skipped.add(label, str(problem))
                continue
            outlines[annotation["image_id"]].append(rle)
        own.append([*box, score, category])
    if skipped.reasons[NO_MASK] and not any(rows.values()):
        raise UserError(
            f"{_KEY} {path} has no masks, and MODEL.MASK_ON is True: label with a model that predicts masks, or set it "
            "to False."
        )
    skipped.report()
    return rows, outlines
