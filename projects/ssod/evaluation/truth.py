"""The ground truth of evaluations in COCO's format, read as training reads it.

Ids of annotations are renumbered from 1. COCO's matching uses 0 for "no match", so a file with ids
from 0, or with one id for two boxes, would give a lower AP.
"""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

from ssod.data.boxes import box_problem
from ssod.data.coco import CocoSet
from ssod.data.coco_content import corners, read_coco
from ssod.data.json_file import file_stamp, read_json
from ssod.data.readings import dataset_records, declared_set

# COCO ignores boxes with an area above this one.
_LARGEST_AREA = 1e10
_MORE_KEYS = ("segmentation", "keypoints", "num_keypoints")
_LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")

# (path, state of the file) -> clean content, for sets that others registered.
_known_files: Dict[Tuple[str, Tuple[int, int]], Dict[str, Any]] = {}


def evaluation_truth(dataset_name: str) -> Dict[str, Any]:
    """ "images", "annotations" (complete, with different ids) and "categories" of a dataset, by
    their own ids.

    A declared set is taken as training reads it. A set that others registered is taken from its
    "json_file", so that the areas of masks count, or from its records. A set without labels has no
    "annotations".
    """
    metadata = MetadataCatalog.get(dataset_name)
    if declared_set(dataset_name) is None and metadata.get("json_file"):
        return _clean_file(metadata.json_file)
    return _from_records(dataset_name)


def coco_api(content: Dict[str, Any]) -> COCO:
    """`pycocotools`' index of a COCO dict."""
    api = COCO()
    api.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def _from_records(dataset_name: str) -> Dict[str, Any]:
    records = dataset_records(dataset_name)
    categories = _categories(dataset_name, records)
    ids = [category["id"] for category in categories]
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for number, record in enumerate(records):
        image = {"id": record.get("image_id", number + 1), "file_name": record["file_name"]}
        image.update({k: record[k] for k in ("height", "width", *_LVIS_KEYS) if k in record})
        images.append(image)
        for found in record.get("annotations", ()):
            box = BoxMode.convert(
                [float(v) for v in found["bbox"]], BoxMode(found["bbox_mode"]), BoxMode.XYWH_ABS
            )
            row = {
                "image_id": image["id"],
                "category_id": ids[found["category_id"]],
                "bbox": list(box),
                "iscrowd": int(found.get("iscrowd", 0)),
                **{key: found[key] for key in _MORE_KEYS if key in found},
            }
            annotations.append(_complete(row, found.get("area")))
    content: Dict[str, Any] = {"info": {}, "images": images, "categories": categories}
    if any("annotations" in record for record in records):
        content["annotations"] = _numbered(annotations)
    return content


def _categories(dataset_name: str, records: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    dataset = declared_set(dataset_name)
    if isinstance(dataset, CocoSet):
        return dataset.categories()
    metadata = MetadataCatalog.get(dataset_name)
    names = metadata.get("thing_classes")
    if names is None:
        labels = [a["category_id"] for record in records for a in record.get("annotations", ())]
        names = [str(index) for index in range(max(labels, default=-1) + 1)]
    mapping = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    own = {index: category for category, index in mapping.items()}
    return [{"id": own.get(index, index), "name": name} for index, name in enumerate(names)]


def _clean_file(path: str) -> Dict[str, Any]:
    key = path, file_stamp(path)
    if key not in _known_files:
        _known_files.clear()
        _known_files[key] = _read_clean(path)
    content = _known_files[key]
    if "annotations" not in content:
        return content
    # Evaluations write into annotations.
    return {**content, "annotations": [dict(a) for a in content["annotations"]]}


def _read_clean(path: str) -> Dict[str, Any]:
    content = read_json(path)
    if isinstance(content, dict) and "annotations" not in content:
        return content  # a test set whose labels are not public
    content = read_coco(path, ("images", "annotations", "categories"))
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    annotations = []
    for found in content["annotations"]:
        image = images.get(found["image_id"])
        if image is None or found["category_id"] not in categories:
            continue
        size = image.get("height"), image.get("width")
        if box_problem(corners(found.get("bbox")), *size):
            continue
        row = {**found, "iscrowd": int(bool(found.get("iscrowd")))}
        annotations.append(_complete(row, found.get("area")))
    return {**content, "annotations": _numbered(annotations)}


def _complete(row: Dict[str, Any], area: Any) -> Dict[str, Any]:
    if type(area) not in (int, float) or not 0 < area < math.inf:
        area = row["bbox"][2] * row["bbox"][3]
    row["area"] = min(float(area), _LARGEST_AREA)
    return row


def _numbered(annotations: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    return annotations
