"""Datasets in COCO's JSON format: boxes, and masks on request. Keypoints are not read."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Tuple

from detectron2.structures import BoxMode

from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.coco_schema import check_structure
from ssod.data.formats.registry import optional_path, register_format, resolve_path
from ssod.data.masks import read_mask
from ssod.data.records import Record, read_image_size
from ssod.errors import UserError, relative_to
from ssod.resources import advice_if_missing

logger = logging.getLogger(__name__)


def read_json(path: str) -> Any:
    """The content of a JSON file in UTF-8, -16 or -32, with or without a byte order mark.

    Raises:
        UserError: the file is missing, empty, truncated or otherwise broken.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist{relative_to(path)}: {advice_if_missing(path)}."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct its path.") from None
    if not data.strip():
        raise UserError(f"{path} is empty: write or download it again.")
    if data.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not the file itself: run git lfs pull.")
    try:
        content = json.loads(data)
        twice = _list_twice(data, content)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UserError(
            f"{path} is not valid JSON ({error}); it may be truncated: write or download it again."
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a COCO file: write it again.") from None
    if twice is not None:
        raise UserError(f'{path} has "{twice}" twice, and only one would be read: merge them.')
    return content


def _list_twice(data: bytes, content: Any) -> Optional[str]:
    """The name of a list that the outermost object of a COCO file has twice."""
    keys = [key for key in ("images", "annotations", "categories") if f'"{key}"'.encode() in data]
    if not isinstance(content, dict) or all(data.count(f'"{key}"'.encode()) < 2 for key in keys):
        return None
    outermost: List[str] = []

    def note(pairs: List[Tuple[str, Any]]) -> None:
        outermost[:] = [key for key, _ in pairs]

    json.loads(data, object_pairs_hook=note)  # the outermost object is the last one that it calls
    return next((key for key in keys if outermost.count(key) > 1), None)


def object_under(content: Any, key: str) -> Dict[str, Any]:
    """The JSON object under a key. {} if there is none, or something else."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, dict) else {}


def read_coco(path: str, keys: Tuple[str, ...]) -> Dict[str, Any]:
    """A COCO file that has a list under each of `keys`, with at least one image.

    The result has these properties. Every image has a "file_name" with slashes instead of
    back-slashes, and a positive "height" and "width" or neither. All images have different ids. The
    names of categories are texts. Annotations write ids as "images" and "categories" do. An
    "iscrowd" is a whole number. A missing "bbox" is replaced by that of the polygons.

    Raises:
        UserError: the file is not a COCO file.
    """
    content = read_json(path)
    check_structure(path, content, keys)
    if not content["images"]:
        raise UserError(f"{path} lists no images: use another file.")
    _tidy_images(path, content["images"])
    for category in content["categories"] if "categories" in keys else ():
        # JSON allows half of a surrogate pair, but it cannot be written to a file or a terminal.
        category["name"] = str(category["name"]).encode("utf-8", "replace").decode()
    if "annotations" in keys:
        _tidy_annotations(path, content, keys)
    return content


def _tidy_annotations(path: str, content: Dict[str, Any], keys: Tuple[str, ...]) -> None:
    lists = {"image_id": "images", "category_id": "categories"}
    known = {
        name: {entry["id"]: entry["id"] for entry in content[key]}
        for name, key in lists.items()
        if key in keys
    }
    for number, annotation in enumerate(content["annotations"]):
        for name, ids in known.items():
            if annotation[name] not in ids:
                annotation[name] = _find_id(ids, annotation[name])
        if annotation.get("bbox") is None:
            annotation["bbox"] = box_of_polygons(annotation.get("segmentation"))
        if type(annotation.get("iscrowd", 0)) is not int:
            annotation["iscrowd"] = crowd_flag(
                f"{path}: annotations[{number}]", annotation["iscrowd"]
            )


def box_of_polygons(polygons: Any) -> List[float]:
    """XYWH around COCO polygons [[x, y, x, y, ...], ...]. [] for anything else, and if a number is
    NaN.
    """
    if not isinstance(polygons, list) or not polygons:
        return []
    if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in polygons):
        return []
    if not all(type(v) in (int, float) and v == v for polygon in polygons for v in polygon):
        return []
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _tidy_images(path: str, images: List[Dict[str, Any]]) -> None:
    seen = set()
    for number, image in enumerate(images):
        name = image_file_name(image)
        if not name:
            raise UserError(
                f'{path} has an image without "id" or "file_name" (images[{number}], id {image["id"]!r}): add it.'
            )
        image["file_name"] = name
        if image["id"] in seen:
            raise UserError(
                f"{path} has two images with the id {image['id']!r}: give each its own."
            )
        seen.add(image["id"])
        size = [_whole(image.pop(key, None)) for key in ("height", "width")]
        if all(size):  # converters write 0 or -1 if they do not know the size
            image["height"], image["width"] = size


def _whole(value: Any) -> int:
    """A size as a whole number. 0 if it is not a number."""
    if value is None or not math.isfinite(float(value) if abs(value) < 1e9 else math.inf):
        return 0
    return max(0, int(value))


def crowd_flag(where: str, value: Any) -> int:
    """1 for a crowd, otherwise 0. `where` names the annotation in messages."""
    if value is None or (isinstance(value, (bool, int, float)) and value == 0):
        return 0
    if isinstance(value, str):
        flag = {"0": 0, "": 0, "false": 0, "1": 1, "true": 1}.get(value.strip().lower())
        if flag is None:
            raise UserError(f"{where} has the iscrowd {value!r}: write 0 or 1, or leave it out.")
        return flag
    return int(bool(value == value) and bool(value))  # NaN is no flag


def category_map(path: str, categories: List[Dict[str, Any]]) -> Dict[Any, Tuple[int, str]]:
    """category id -> (contiguous class index, name), in the order of the ids, as in Detectron2."""
    if len({isinstance(c["id"], str) for c in categories}) > 1:
        raise UserError(f"{path} has categories with numbers and with texts as id: use numbers.")
    ordered = sorted(categories, key=lambda c: c["id"])
    for key in ("id", "name"):
        for value, count in Counter(c[key] for c in ordered).items():
            if count > 1:
                raise UserError(f"{path} has two categories with the {key} {value!r}: rename one.")
    return {c["id"]: (i, c["name"]) for i, c in enumerate(ordered)}


def file_stamp(path: str) -> Tuple[int, int]:
    """Changes when a file does: the time of its last change, in nanoseconds, and its size."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


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


def image_file_name(image: Mapping[str, Any]) -> str:
    """ "file_name", or the last two parts of "coco_url" (LVIS: "train2017/000000000009.jpg"); ""
    where both are missing.
    """
    name = image.get("file_name") or "/".join((image.get("coco_url") or "").split("/")[-2:])
    return name


def _find_id(ids: Mapping[Any, Any], key: Any) -> Any:
    """Finds an id that is a number in one list and a text in the other. If there is none, it
    returns `key`.
    """
    if not isinstance(key, str):
        return ids.get(str(int(key)), key)
    short = key.isascii() and key.isdecimal() and len(key) < 100
    return ids.get(int(key), key) if short else key


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

    def unlabeled_records(self) -> List[Record]:
        """Only the images. Annotations and categories are not read."""
        content = read_coco(self.annotations, ("images",))
        return list(_image_records(self.annotations, self.images, content["images"]).values())

    def labeled_records(self) -> List[Record]:
        """Images with "annotations" (class indices; XYWH boxes). Unusable boxes are skipped and
        reported.

        An annotation has its own "area" if the file gives another area than the box's, which is a
        mask's. With `masks` it has a "segmentation" (an `Rle`). Annotations whose mask cannot be
        used are skipped and reported like boxes.
        """
        path = self.annotations
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


def corners(box: Any) -> List[float]:
    """XYXY of an XYWH box; [] for anything but four numbers."""
    if not isinstance(box, list) or len(box) != 4:
        return []
    if not all(type(v) in (int, float) and abs(v) < 1e300 for v in box):
        return []
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
