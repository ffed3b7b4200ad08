"""Datasets in COCO's JSON format: bounding boxes only; masks and keypoints are not kept."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Optional, Tuple

from detectron2.structures import BoxMode

from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.formats.registry import optional_path, register_format, resolve_path
from ssod.data.records import Record
from ssod.errors import UserError

# Image files whose existence is checked at start, spread over the set; checking all would be slow on network disks.
_CHECKED_IMAGES = 16


def read_json(path: str) -> Any:
    """The content of a JSON file; a missing, truncated or otherwise broken one is a `UserError`."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct its path or create it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct its path.") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UserError(
            f"{path} is not valid JSON ({error}); it may be truncated: write or download it again."
        ) from None


def read_coco(path: str, keys: Tuple[str, ...]) -> Dict[str, Any]:
    """A COCO file that has a list under each of `keys`, with at least one image."""
    content = read_json(path)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f'{path} has no list "{key}": it must be a COCO file with {", ".join(keys)}.'
            )
        strange = next((entry for entry in content[key] if not isinstance(entry, dict)), None)
        if strange is not None:
            raise UserError(f'{path} has {strange!r} in its list "{key}": each entry is an object.')
    if not content["images"]:
        raise UserError(f"{path} lists no images: use another file.")
    return content


def category_map(path: str, categories: List[Dict[str, Any]]) -> Dict[Any, Tuple[int, str]]:
    """category id -> (contiguous class index, name), in the order of the ids, as Detectron2 has it."""
    if not all("id" in c and "name" in c for c in categories):
        raise UserError(f'{path} has a category without "id" or "name": add it.')
    if len({isinstance(c["id"], str) for c in categories}) > 1:
        raise UserError(f"{path} has categories with numbers and with texts as id: use numbers.")
    ordered = sorted(categories, key=lambda c: c["id"])
    for key in ("id", "name"):
        values = [c[key] for c in ordered]
        for value in values:
            if values.count(value) > 1:
                raise UserError(f"{path} has two categories with the {key} {value!r}: rename one.")
    return {c["id"]: (i, c["name"]) for i, c in enumerate(ordered)}


@lru_cache(maxsize=64)
def _classes(path: str, modified: int) -> Tuple[Tuple[str, ...], Tuple[Any, ...]]:
    mapping = category_map(path, read_coco(path, ("images", "categories"))["categories"])
    return tuple(name for _, name in mapping.values()), tuple(mapping)


def classes_of_json(path: str) -> Tuple[Tuple[str, ...], Tuple[Any, ...]]:
    """(class names, category ids), both by class index; read once for each state of the file."""
    modified = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
    return _classes(path, modified)


def image_file_name(image: Dict[str, Any]) -> str:
    """ "file_name", or the last two parts of "coco_url" (LVIS: "train2017/000000000009.jpg"); "" where both are missing."""
    return image.get("file_name") or "/".join(image.get("coco_url", "").split("/")[-2:])


def _image_records(path: str, root: str, images: List[Dict[str, Any]]) -> Dict[Any, Record]:
    records: Dict[Any, Record] = {}
    for image in sorted(images, key=lambda i: (isinstance(i.get("id"), str), i.get("id", 0))):
        file_name = image_file_name(image)
        if "id" not in image or not file_name or not isinstance(file_name, str):
            raise UserError(f'{path} has an image without "id" or "file_name" ({image}): add it.')
        if image["id"] in records:
            raise UserError(
                f"{path} has two images with the id {image['id']!r}: give each its own."
            )
        record = Record(file_name=os.path.join(root, file_name), image_id=image["id"])
        size = [image.get("height"), image.get("width")]
        if not all(value is None or isinstance(value, (int, float)) for value in size):
            raise UserError(
                f"{path} has height and width {size} of {file_name}: write numbers, or leave them out."
            )
        if all(size):
            record.update(height=image["height"], width=image["width"])
        records[image["id"]] = record
    _check_images_exist(path, root, list(records.values()))
    return records


def _check_images_exist(path: str, root: str, records: List[Record]) -> None:
    if not os.path.isdir(root):
        raise UserError(f"{root}, the IMAGES folder of {path}, does not exist: correct IMAGES.")
    for record in records[:: max(1, len(records) // _CHECKED_IMAGES)]:
        if not os.path.exists(record["file_name"]):
            raise UserError(
                f"{record['file_name']}, listed in {path}, does not exist: correct IMAGES."
            )


@register_format("coco", required=("ANNOTATIONS", "IMAGES"), optional=("TRUTH", "GROUPS"))
@dataclass(frozen=True)
class CocoSet:
    """`{FORMAT: coco, ANNOTATIONS: file.json, IMAGES: folder}`.

    TRUTH names a file for analysis, never read here; GROUPS the labelled set that evaluation groups the classes by.
    """

    name: str
    annotations: str
    images: str
    truth: Optional[str] = None
    groups: Optional[str] = None

    @classmethod
    def from_node(cls, name: str, node: Mapping[str, Any]) -> "CocoSet":
        paths = resolve_path(node["ANNOTATIONS"]), resolve_path(node["IMAGES"])
        return cls(name, *paths, optional_path(node, "TRUTH"), optional_path(node, "GROUPS"))

    @property
    def source(self) -> str:
        return self.annotations

    def files_to_hash(self) -> List[str]:
        return [self.annotations, *([self.groups] if self.groups else [])]

    def names_to_hash(self) -> List[str]:
        return []

    def classes(self) -> List[str]:
        return list(classes_of_json(self.annotations)[0])

    def metadata(self) -> Dict[str, Any]:
        """What is known without reading the file."""
        known = {"json_file": self.annotations, "image_root": self.images}
        return {**known, "groups_file": self.groups} if self.groups else known

    def category_ids(self) -> Dict[Any, int]:
        return {category: i for i, category in enumerate(classes_of_json(self.annotations)[1])}

    def has_labels(self) -> bool:
        return True

    def unlabeled_records(self) -> List[Record]:
        """Images alone; annotations and categories are not looked at."""
        content = read_coco(self.annotations, ("images",))
        return list(_image_records(self.annotations, self.images, content["images"]).values())

    def labeled_records(self) -> List[Record]:
        """Images with "annotations" (class indices; XYWH boxes), unusable boxes skipped and reported."""
        path = self.annotations
        content = read_coco(path, ("images", "annotations", "categories"))
        records = _image_records(path, self.images, content["images"])
        indices = {
            category: i for category, (i, _) in category_map(path, content["categories"]).items()
        }
        skipped = SkippedBoxes(path)
        for record in records.values():
            record["annotations"] = []
        for annotation in content["annotations"]:
            label = f"annotation {annotation.get('id')}"
            if annotation.get("image_id") not in records:
                skipped.add(label, "of images that the file does not list")
                continue
            record = records[annotation["image_id"]]
            if annotation.get("category_id") not in indices:
                raise UserError(
                    f"{path}: {label} has category_id {annotation.get('category_id')!r}, which is not in "
                    '"categories": correct it or add the category.'
                )
            box = annotation.get("bbox") or []
            problem = box_problem(corners(box), record.get("height"), record.get("width"))
            if problem:
                skipped.add(label, problem)
                continue
            record["annotations"].append(
                {
                    "bbox": [float(v) for v in box],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": indices[annotation["category_id"]],
                    "iscrowd": int(bool(annotation.get("iscrowd"))),
                }
            )
        skipped.report()
        return list(records.values())

    def is_ready_for_coco_eval(self) -> bool:
        """Whether COCO's evaluation can read the file itself: every annotation is complete and has an area."""
        annotations = read_json(self.annotations).get("annotations", [])
        return all(
            {"id", "area", "iscrowd"} <= a.keys()
            and not box_problem(corners(a.get("bbox") or []), None, None)
            for a in annotations
        )


@register_format("lvis", required=("ANNOTATIONS", "IMAGES"), optional=("GROUPS",))
@dataclass(frozen=True)
class LvisSet(CocoSet):
    """`{FORMAT: lvis, ...}`: LVIS's own file, evaluated by LVIS's rules."""

    def metadata(self) -> Dict[str, Any]:
        return {**super().metadata(), "evaluator_type": "lvis"}

    def is_ready_for_coco_eval(self) -> bool:
        return True  # LVIS reads the file itself, which has no "iscrowd"


def corners(box: Any) -> List[Any]:
    """XYXY of an XYWH box; anything else is returned for `box_problem` to name."""
    if not isinstance(box, list) or len(box) != 4:
        return []
    if not all(isinstance(v, (int, float)) for v in box):
        return []
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
