"""Brings the sources of a split into one COCO-format dict."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from detectron2.structures import BoxMode

from ssod.data.coco_content import category_map, corners, read_coco
from ssod.data.voc import VocSet
from ssod.errors import UserError


def merge_coco(
    sources: Sequence[Tuple[str, str]],
    translate: Optional[
        Callable[[str, Dict[str, Any], List[Dict[str, Any]]], Dict[str, Any]]
    ] = None,
) -> Dict[str, Any]:
    """Joins COCO files with equal categories.

    Args:
        sources: pairs (file, folder to put before its file names, "" for none).
        translate: called for each file but the first, with the file's name and content and the
            categories so far. It returns the content in these categories.

    Returns:
        "images", "annotations" (with numeric XYWH "bbox") and "categories". Ids of a single file
        stay. Ids of several files are renumbered.
    """
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    categories: List[Dict[str, Any]] = []
    for path, folder in sources:
        content = read_coco(path, ("images", "annotations", "categories"))
        category_map(path, content["categories"])
        if categories and translate:
            content = translate(path, content, categories)
        found = [
            {"id": c["id"], "name": c["name"]}
            for c in sorted(content["categories"], key=lambda c: c["id"])
        ]
        if categories and found != categories:
            raise UserError(
                f"{path} and {sources[0][0]} differ in their categories: make them equal."
            )
        categories = found
        new_ids = {}
        for image in content["images"]:
            name = image["file_name"]
            new_ids[image["id"]] = image["id"] if len(sources) == 1 else len(images) + 1
            file_name = f"{folder}/{name}" if folder else name
            images.append({**image, "id": new_ids[image["id"]], "file_name": file_name})
        _check_annotations(path, content["annotations"], new_ids, {c["id"] for c in found})
        for annotation in content["annotations"]:
            number = annotation.get("id") if len(sources) == 1 else len(annotations) + 1
            annotations.append(
                {**annotation, "id": number, "image_id": new_ids[annotation["image_id"]]}
            )
    seen: Set[str] = set()
    for image in images:
        if image["file_name"] in seen:
            raise UserError(
                f"{image['file_name']} is listed twice: give each --coco file its folder, FILE=FOLDER."
            )
        seen.add(image["file_name"])
    return {"images": images, "annotations": annotations, "categories": categories}


def _check_annotations(
    path: str, annotations: List[Dict[str, Any]], images: Dict[Any, Any], categories: Set[Any]
) -> None:
    """Raises `UserError` for the first annotation that fits no image or category, or has no four
    numbers.
    """
    for a in annotations:
        box = a.get("bbox")
        if a.get("image_id") not in images:
            wrong = f"image_id {a.get('image_id')!r}, which is not in images"
        elif a.get("category_id") not in categories:
            wrong = f"category_id {a.get('category_id')!r}, which is not in categories"
        elif not corners(box):
            wrong = f"the bbox {box!r}, which is not four numbers"
        else:
            continue
        raise UserError(f"{path}: annotation {a.get('id')} has {wrong}: correct or remove it.")


def voc_to_coco(root: str, split: str, classes: Tuple[str, ...]) -> Dict[str, Any]:
    """Converts a VOC-layout dataset. File names are relative to ROOT/JPEGImages. Unusable boxes are
    left out with a warning.
    """
    dataset = VocSet("voc", root, split, classes)
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for record in dataset.labeled_records():
        images.append(
            {
                "id": record["image_id"],
                "file_name": os.path.basename(record["file_name"]),
                "height": record["height"],
                "width": record["width"],
            }
        )
        for found in record["annotations"]:
            x, y, width, height = BoxMode.convert(found["bbox"], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": found["category_id"] + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(dataset.classes())]
    return {"images": images, "annotations": annotations, "categories": categories}
