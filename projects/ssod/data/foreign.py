"""Datasets that others registered in Detectron2's catalog: they are loaded, checked and cleaned."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.coco_content import crowd_flag
from ssod.data.masks import read_mask
from ssod.data.records import Record
from ssod.errors import UserError, relative_to


def load_foreign(name: str) -> List[Dict[str, Any]]:
    try:
        return DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}, needed by the dataset {name}, does not exist{relative_to(str(error.filename))}: put it "
            "there or set DETECTRON2_DATASETS."
        ) from None
    except UserError:
        raise
    except (
        Exception
    ) as error:  # a foreign loader may raise anything on files that it does not expect
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{name}, which was registered outside of SSOD.DATASETS, cannot be loaded ({detail}): correct its loader or "
            "its files, or declare it in SSOD.DATASETS."
        ) from None


def clean_records(name: str, records: Sequence[Any]) -> List[Dict[str, Any]]:
    """For datasets that others registered: copies of the records without the boxes that
    `box_problem` names.

    Images get numbers if none has an id. Crowd flags become 0 or 1.

    Raises:
        UserError: a record or an annotation does not have Detectron2's form.
    """
    skipped, layout = SkippedBoxes(name), BoxLayout(name)
    kept: List[Any] = [image_record(name, n, record) for n, record in enumerate(records)]
    _check_image_ids(name, kept)
    modes = set()
    for record in kept:
        if "annotations" not in record:
            continue
        size = record.get("height"), record.get("width")
        annotations = []
        for annotation in record["annotations"] or ():
            where = f"{name}: an annotation of image {record['image_id']}"
            box = _foreign_box(name, where, annotation)
            modes.add(annotation["bbox_mode"])
            layout.add(box, *size)
            problem = box_problem(box, *size)
            if problem:
                skipped.add(f"image {record['image_id']}", problem, record["file_name"])
                continue
            if annotation["bbox_mode"] == BoxMode.XYWHA_ABS:
                annotation = {**annotation, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
            flag = crowd_flag(where, annotation.get("iscrowd", 0))
            annotations.append({**annotation, "iscrowd": flag})
        record["annotations"] = annotations
    layout.check(corners=BoxMode.XYWH_ABS not in modes)
    skipped.report()
    return kept


def with_masks(name: str, records: Sequence[Mapping[str, Any]]) -> List[Record]:
    """Copies of records whose masks are `Rle`. Annotations without a usable mask are skipped and
    reported.

    Declared sets already have such masks. Sets that others registered have masks of any form.
    """
    skipped = SkippedBoxes(name, "unusable masks")
    kept = []
    for record in records:
        if "annotations" not in record:
            kept.append(Record(record))
            continue
        size = record.get("height"), record.get("width")
        annotations = []
        for annotation in record["annotations"]:
            mode, crowd = BoxMode(annotation["bbox_mode"]), bool(annotation.get("iscrowd", 0))
            box = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
            rle, problem = read_mask(annotation.get("segmentation"), box, *size, is_crowd=crowd)
            if rle is None:
                skipped.add(f"image {record.get('image_id')}", str(problem), record["file_name"])
            else:
                annotations.append({**annotation, "segmentation": rle})
        kept.append(Record(record, annotations=annotations))
    skipped.report()
    return kept


def image_record(name: str, number: int, record: Any) -> Record:
    """A copy of a record of Detectron2's form, with the size if the image has one."""
    if not isinstance(record, Mapping):
        raise UserError(f"{name}: record {number} is {record!r:.60}, no dict: correct its loader.")
    image = Record(record)
    if not isinstance(image.get("file_name"), (str, os.PathLike)) or not image["file_name"]:
        raise UserError(f'{name} has a record without "file_name": correct its loader.')
    image["file_name"] = os.fspath(image["file_name"])
    for key in ("height", "width"):
        value = image.get(key)
        if value is None:
            image.pop(key, None)
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise UserError(
                f"{name}: {key} of {image['file_name']} is {value!r}: correct its loader, or leave it out."
            )
    if not isinstance(image.get("annotations") or [], (list, tuple)):
        raise UserError(
            f'{name}: "annotations" of {image["file_name"]} is no list: correct its loader.'
        )
    return image


def _check_image_ids(name: str, records: List[Record]) -> None:
    """Numbers images that have no ids. Evaluation identifies images by their ids."""
    if not any("image_id" in record for record in records):
        for number, record in enumerate(records):
            record["image_id"] = number + 1
    seen = set()
    for record in records:
        image_id = record.get("image_id")
        if image_id is None or image_id in seen:
            what = (
                "no image_id" if image_id is None else f"the image_id {image_id!r} of another image"
            )
            raise UserError(f"{name}: {record['file_name']} has {what}: correct its loader.")
        seen.add(image_id)


def _foreign_box(name: str, where: str, annotation: Any) -> List[float]:
    """XYXY of an annotation of Detectron2's form. [] if a value is not a number."""
    if not isinstance(annotation, Mapping):
        raise UserError(f"{where} is {annotation!r:.60}, no dict: correct the loader of {name}.")
    missing = [key for key in ("bbox", "bbox_mode", "category_id") if key not in annotation]
    if missing:
        raise UserError(f'{where} has no "{missing[0]}": correct the loader of {name}.')
    category, mode = annotation["category_id"], annotation["bbox_mode"]
    if isinstance(category, bool) or not isinstance(category, (int, np.integer)):
        raise UserError(
            f"{where} has the category_id {category!r}: it must be a class index, a whole number from 0."
        )
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS):
        raise UserError(
            f"{where} has the bbox_mode {mode!r}: use BoxMode.XYXY_ABS or BoxMode.XYWH_ABS, in pixels."
        )
    try:
        box = [float(v) for v in annotation["bbox"]]
        return [float(v) for v in BoxMode.convert(box, BoxMode(mode), BoxMode.XYXY_ABS)]
    except (TypeError, ValueError, AssertionError, NotImplementedError):
        return []
