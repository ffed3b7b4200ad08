"""The records that training and evaluation use, from the sets that `DATASETS` names. They are
loaded and checked as a whole.

The labels of unlabelled sets never leave this module. They are not even read if the format allows
it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any, Dict, List, Mapping, Sequence

from detectron2.config import CfgNode

from ssod.data.boxes import skipped_boxes
from ssod.data.classes import check_classes, check_foreign
from ssod.data.existence import drop_missing
from ssod.data.foreign import image_record, load_foreign, with_masks
from ssod.data.masks import NO_MASK
from ssod.data.readings import (
    check_name,
    dataset_records,
    declared_set,
    forget_readings,
    name_and_source,
    read_declared,
    register_datasets,
    source_of,
)
from ssod.data.records import Record, trained_classes
from ssod.data.stored_labels import attach_stored_labels
from ssod.errors import UserError, first_names

logger = logging.getLogger(__name__)


def load_labeled(cfg: CfgNode) -> List[Dict[str, Any]]:
    """The records of all of `DATASETS.TRAIN`, checked.

    Unusable boxes are left out with a warning. `DATALOADER.FILTER_EMPTY_ANNOTATIONS` decides about
    images without any other than crowd boxes.
    """
    register_datasets(cfg)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name at least one labelled dataset.")
    records: List[Dict[str, Any]] = []
    for name in cfg.DATASETS.TRAIN:
        check_name(name, "DATASETS.TRAIN")
        declared = declared_set(name)
        if declared is not None:
            found: List[Any] = [Record(record) for record in read_declared(declared, True)]
        else:
            check_foreign(cfg, name)
            found = dataset_records(name)
        _check_masks(cfg, name, found)
        if cfg.MODEL.MASK_ON and declared is None:
            found = list(with_masks(name, found))
        usable = [record for record in found if has_box(record)]
        if not usable:
            skipped = Counter(box.reason for box in skipped_boxes(source_of(name)))
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            raise UserError(
                f"{name_and_source(name)} has no usable box{f' (skipped: {reasons})' if reasons else ''}: DATASETS.TRAIN needs "
                "labelled images."
            )
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and len(usable) < len(found):
            logger.info(
                f"{name}: left out {len(found) - len(usable)} of {len(found)} images, which have no boxes."
            )
            found = usable
        records += [_named(record, name) for record in found]
    classes = check_classes(cfg)
    _warn_unlabeled_classes(records, classes)
    return records


def load_unlabeled(cfg: CfgNode) -> List[Dict[str, Any]]:
    """The records of all of `DATASETS.UNLABELED` without annotations. No image is dropped.

    With `SSOD.PSEUDO_LABELS` each record has its stored labels, see `attach_stored_labels`.
    """
    register_datasets(cfg)
    if not cfg.DATASETS.UNLABELED and cfg.SSOD.METHODS:
        raise UserError(
            "DATASETS.UNLABELED is empty: name at least one dataset, or empty SSOD.METHODS."
        )
    records: List[Dict[str, Any]] = []
    for name in cfg.DATASETS.UNLABELED:
        check_name(name, "DATASETS.UNLABELED")
        declared = declared_set(name)
        if declared is not None:
            found = read_declared(declared, False)
        else:
            found = [image_record(name, *row) for row in enumerate(load_foreign(name))]
            found = drop_missing(found, name, sample=True, advice="correct its loader")
        if not found:
            raise UserError(f"{name_and_source(name)} lists no images: use another dataset.")
        records += [_named(_image_alone(record), name) for record in found]
    if cfg.SSOD.PSEUDO_LABELS:
        records = attach_stored_labels(
            records, cfg.SSOD.PSEUDO_LABELS, check_classes(cfg), masks=cfg.MODEL.MASK_ON
        )
    return records


def read_test_sets(cfg: CfgNode, keys: Sequence[str]) -> None:
    """Reads the sets that a run evaluates on once more, before its first step.

    All evaluations use the records that are read here. Boxes that cannot be used are skipped.
    Images that do not exist are left out or refused, see `drop_missing`.

    Args:
        keys: the lists of `DATASETS`.

    Raises:
        UserError: names the file and says what to do.
    """
    forget_readings()
    register_datasets(cfg)
    for key in keys:
        for name in cfg.DATASETS[key]:
            check_name(name, f"DATASETS.{key}")
            declared = declared_set(name)
            if declared is not None and not declared.has_labels():
                raise UserError(
                    f"DATASETS.{key} names {name}, a folder without labels: use a labelled set."
                )
            records = dataset_records(name)
            if not records:
                raise UserError(
                    f"{name_and_source(name)} lists no images: use another set in DATASETS.{key}."
                )
            check_foreign(cfg, name)
            _check_masks(cfg, name, records)


def _check_masks(cfg: CfgNode, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UserError` if masks are trained and a set has boxes but no masks at all."""
    if not cfg.MODEL.MASK_ON:
        return
    found = [a for record in records for a in record.get("annotations", ())]
    lost = any(box.reason == NO_MASK for box in skipped_boxes(source_of(name)))
    if (found or lost) and not any(a.get("segmentation") for a in found):
        raise UserError(
            f"{name_and_source(name)} has no masks, and MODEL.MASK_ON is True: use a set with masks, or set it to False."
        )


def trained_images(cfg: CfgNode, labeled: Sequence[Mapping[str, Any]]) -> List[str]:
    """One line for each set of `DATASETS.VAL` and `TEST` that shares image files with the labelled
    ones.

    Sets that `DATASETS.TRAIN` names too are left out.

    Args:
        labeled: the records of `load_labeled`.
    """
    trained = {os.path.normpath(record["file_name"]) for record in labeled}
    found: List[str] = []
    for key in ("VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            if name in cfg.DATASETS.TRAIN:
                continue
            files = [os.path.normpath(record["file_name"]) for record in dataset_records(name)]
            shared = [file for file in files if file in trained]
            if shared:
                found.append(
                    f"{len(shared)} of {len(files)} images of DATASETS.{key} {name}, such as {shared[0]}, are trained on "
                    "(DATASETS.TRAIN): its AP says nothing about other images."
                )
    return found


def _image_alone(record: Dict[str, Any]) -> Record:
    # Only listed keys are kept, because a foreign dataset may store its truth under any key.
    return Record(
        {k: record[k] for k in ("file_name", "image_id", "height", "width") if k in record}
    )


def _named(record: Dict[str, Any], name: str) -> Dict[str, Any]:
    record["dataset_name"] = name
    return record


def has_box(record: Dict[str, Any]) -> bool:
    return any(not a.get("iscrowd", 0) for a in record.get("annotations", ()))


def _warn_unlabeled_classes(records: List[Dict[str, Any]], classes: List[str]) -> None:
    seen = {label for record in records for label in trained_classes(record)}
    missing = [name for i, name in enumerate(classes) if i not in seen]
    if missing:
        logger.warning(
            f"DATASETS.TRAIN has no box of {first_names(missing)}: the model cannot learn these classes. "
            "Label some of their objects, or remove the classes."
        )
