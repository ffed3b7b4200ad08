"""The content of files in COCO's JSON format: read, checked and brought to one form."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Dict, List, Mapping, Tuple

from ssod.data.coco_schema import check_structure
from ssod.data.json_file import read_json
from ssod.errors import UserError


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
    if "categories" in keys:
        tidy_categories(content["categories"])
    if "annotations" in keys:
        _tidy_annotations(path, content, keys)
    return content


def tidy_categories(categories: List[Dict[str, Any]]) -> None:
    """Makes names texts that can be written to a file or a terminal.

    JSON allows half of a surrogate pair, which they cannot hold.
    """
    for category in categories:
        category["name"] = str(category["name"]).encode("utf-8", "replace").decode()


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


def corners(box: Any) -> List[float]:
    """XYXY of an XYWH box; [] for anything but four numbers."""
    if not isinstance(box, list) or len(box) != 4:
        return []
    if not all(type(v) in (int, float) and abs(v) < 1e300 for v in box):
        return []
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
