"""Datasets in COCO's JSON format: boxes, and masks on request. Keypoints are not read."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

from detectron2.structures import BoxMode

from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.coco_blocks import can_read
from ssod.data.coco_columns import CocoColumns, read_columns
from ssod.data.coco_content import category_map, corners, read_coco
from ssod.data.formats.registry import optional_path, register_format, resolve_path
from ssod.data.json_file import file_stamp
from ssod.data.json_lists import Irregular, is_large
from ssod.data.masks import read_mask
from ssod.data.records import Record, read_image_size
from ssod.errors import UserError, relative_to

logger = logging.getLogger(__name__)


# Categories of the files that were read, by path and state.
_known_categories: Dict[Tuple[str, Tuple[int, int]], List[Dict[str, Any]]] = {}


def categories_of_json(path: str) -> List[Dict[str, Any]]:
    """The categories of a file by class index, unchanged. They are read once for each state of the
    file.
    """
    key = path, file_stamp(path)
    if key not in _known_categories:
        content = read_coco(path, ("images", "categories"))
        _note_categories(path, content["categories"])
    return _known_categories[key]


def _note_categories(path: str, categories: List[Dict[str, Any]]) -> Dict[Any, int]:
    """Remembers the categories of a file, and returns the class index of each id."""
    mapping = category_map(path, categories)
    _known_categories[path, file_stamp(path)] = sorted(categories, key=lambda c: c["id"])
    return {category: index for category, (index, _) in mapping.items()}


def _image_records(path: str, root: str, images: List[Dict[str, Any]]) -> Dict[Any, Record]:
    if not os.path.isdir(root):
        raise UserError(
            f"{root}, the IMAGES folder of {path}, does not exist{relative_to(root)}: correct IMAGES."
        )
    records: Dict[Any, Record] = {}
    to_slashes = _has_windows_paths(root, images)
    for image in sorted(images, key=lambda i: (isinstance(i["id"], str), i["id"])):
        name = image["file_name"].replace("\\", "/") if to_slashes else image["file_name"]
        record = Record(file_name=os.path.join(root, name), image_id=image["id"])
        if "height" in image:
            record.update(height=image["height"], width=image["width"])
        records[image["id"]] = record
    return records


def _set_size(record: Record) -> None:
    """Sets the size from the image's header, because boxes cannot be judged without a size."""
    try:
        record["height"], record["width"] = read_image_size(record["file_name"])
    except OSError:
        pass  # the loader reports it


def _warn_of_same_files(path: str, records: Dict[Any, Record]) -> None:
    counts = Counter(record["file_name"] for record in records.values())
    name, most = counts.most_common(1)[0]
    if most > 1:
        more = sum(counts.values()) - len(counts)
        logger.warning(
            f"{path}: {more} of {len(records)} images have the file of another one, such as {name} ({most} times): "
            "remove the repeated entries."
        )


def _has_windows_paths(root: str, images: List[Dict[str, Any]]) -> bool:
    """Whether back-slashes in file names separate folders. On Linux they may be part of a name."""
    names = (image["file_name"] for image in images)
    first = next((name for name in names if "\\" in name), None)
    return first is not None and not os.path.exists(os.path.join(root, first))


@register_format("coco", required=("ANNOTATIONS", "IMAGES"), optional=("TRUTH", "GROUPS"))
@dataclass(frozen=True)
class CocoSet:
    """`{FORMAT: coco, ANNOTATIONS: file.json, IMAGES: folder}`.

    TRUTH names a file for analysis, which is never read here. GROUPS names the labelled set by
    which evaluation groups the classes. `masks` says whether masks are read too (`MODEL.MASK_ON`).
    """

    # The keys of images that records keep besides file and size.
    IMAGE_KEYS: ClassVar[Tuple[str, ...]] = ()

    name: str
    annotations: str
    images: str
    truth: Optional[str] = None
    groups: Optional[str] = None
    masks: bool = False

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
        return [category["name"] for category in self.categories()]

    def metadata(self) -> Dict[str, Any]:
        """The metadata that is known without reading the file."""
        known = {"json_file": self.annotations, "image_root": self.images}
        return {**known, "groups_file": self.groups} if self.groups else known

    def category_ids(self) -> Dict[Any, int]:
        return {category["id"]: index for index, category in enumerate(self.categories())}

    def categories(self) -> List[Dict[str, Any]]:
        """The file's categories by class index."""
        return categories_of_json(self.annotations)

    def has_labels(self) -> bool:
        return True

    def _columns(self, labeled: bool) -> Optional[CocoColumns]:
        """The content of a large file. None for a small one, and for one that is not plain."""
        path = self.annotations
        if not is_large(path) or self.IMAGE_KEYS or (labeled and self.masks):
            return None
        if not can_read():
            logger.info(f"{path} is large: pip install 'ssod[scale]' to read it in less memory.")
            return None
        try:
            return read_columns(path, self.images, labeled=labeled)
        except Irregular:
            return None

    def unlabeled_records(self) -> Sequence[Record]:
        """Only the images. Annotations and categories are not read."""
        columns = self._columns(labeled=False)
        if columns is not None:
            return columns.records
        content = read_coco(self.annotations, ("images",))
        return list(_image_records(self.annotations, self.images, content["images"]).values())

    def labeled_records(self) -> Sequence[Record]:
        """Images with "annotations" (class indices; XYWH boxes). Unusable boxes are skipped and
        reported.

        An annotation has its own "area" if the file gives another area than the box's, which is a
        mask's. With `masks` it has a "segmentation" (an `Rle`). Annotations whose mask cannot be
        used are skipped and reported like boxes.
        """
        path = self.annotations
        columns = self._columns(labeled=True)
        if columns is not None:
            _note_categories(path, columns.categories)
            _conforming[path, file_stamp(path)] = columns.conforming
            return columns.records
        content = read_coco(path, ("images", "annotations", "categories"))
        records = _image_records(path, self.images, content["images"])
        indices = _note_categories(path, content["categories"])
        _conforming[path, file_stamp(path)] = _conforms(content)
        skipped = SkippedBoxes(path)
        layout = BoxLayout(path)
        _warn_of_same_files(path, records)
        for record in records.values():
            record["annotations"] = []
            if "height" not in record:
                _set_size(record)
        for number, annotation in enumerate(content["annotations"]):
            label = (
                f"annotation {annotation['id']}" if "id" in annotation else f"annotations[{number}]"
            )
            if annotation["image_id"] not in records:
                skipped.add(label, "of images that the file does not list")
                continue
            record = records[annotation["image_id"]]
            index = indices.get(annotation["category_id"])
            if index is None:
                raise UserError(
                    f"{path}: {label} has category_id {annotation['category_id']!r}, which is not in "
                    '"categories": correct it or add the category.'
                )
            box = annotation.get("bbox")
            size = record.get("height"), record.get("width")
            xyxy = corners(box)
            layout.add(xyxy, *size)
            problem = box_problem(xyxy, *size)
            if problem:
                skipped.add(label, problem, record["file_name"])
                continue
            kept = {
                "bbox": [float(v) for v in box],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": index,
                "iscrowd": int(bool(annotation.get("iscrowd"))),
                **_own_area(annotation.get("area"), box),
            }
            if self.masks:
                kept["segmentation"], problem = read_mask(
                    annotation.get("segmentation"), xyxy, *size, is_crowd=bool(kept["iscrowd"])
                )
                if problem:
                    skipped.add(label, problem, record["file_name"])
                    continue
            record["annotations"].append(kept)
        layout.check()
        skipped.report()
        for image in content["images"]:
            more = {key: image[key] for key in self.IMAGE_KEYS if key in image}
            records[image["id"]].update(more)
        return list(records.values())

    def is_ready_for_coco_eval(self) -> bool:
        """Whether Detectron2's and COCO's own evaluation may read the file: all ids are different
        positive numbers, and every annotation has an area, a crowd flag and a box.
        `labeled_records` finds out.
        """
        key = self.annotations, file_stamp(self.annotations)
        if key not in _conforming:
            self.labeled_records()
        return _conforming[key]


# Path and state of a file -> whether it has everything that COCO's evaluation needs.
_conforming: Dict[Tuple[str, Tuple[int, int]], bool] = {}


def _conforms(content: Dict[str, Any]) -> bool:
    annotations = content["annotations"]
    images = {image["id"] for image in content["images"]}
    ids = [a.get("id") for a in annotations]
    return (
        all(type(i) is int and i > 0 for i in ids)
        and len(set(ids)) == len(ids)
        and all(type(i) is int for i in images)
        and all("height" in image for image in content["images"])
        and all(type(c["id"]) is int for c in content["categories"])
        and all(a["image_id"] in images for a in annotations)
        and all(type(a.get("area")) in (int, float) and a["area"] > 0 for a in annotations)
        and all("iscrowd" in a for a in annotations)
        and not any(box_problem(corners(a.get("bbox")), None, None) for a in annotations)
    )


def _own_area(area: Any, box: List[float]) -> Dict[str, float]:
    """{"area": ...} if the area is a number that differs from the box's."""
    if type(area) not in (int, float) or not 0 < area < math.inf or area == box[2] * box[3]:
        return {}
    return {"area": float(area)}


@register_format("lvis", required=("ANNOTATIONS", "IMAGES"), optional=("GROUPS",))
@dataclass(frozen=True)
class LvisSet(CocoSet):
    """`{FORMAT: lvis, ...}`: a file of LVIS, evaluated by LVIS's rules."""

    IMAGE_KEYS: ClassVar[Tuple[str, ...]] = ("neg_category_ids", "not_exhaustive_category_ids")

    def metadata(self) -> Dict[str, Any]:
        return {**super().metadata(), "evaluator_type": "lvis"}

    def is_ready_for_coco_eval(self) -> bool:
        return True  # LVIS's files have no crowds, and its own evaluators read them
