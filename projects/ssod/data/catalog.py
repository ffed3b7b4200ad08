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
from ssod.data.label_columns import has_trained_box, label_columns
from ssod.data.masks import NO_MASK
from ssod.data.packed import PackedRecords, column_of
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
from ssod.data.stored_labels import attach_stored_labels
from ssod.errors import UserError, first_names

logger = logging.getLogger(__name__)


def load_labeled(cfg: CfgNode) -> PackedRecords:
    """The records of all of `DATASETS.TRAIN`, checked.

    Unusable boxes are left out with a warning. `DATALOADER.FILTER_EMPTY_ANNOTATIONS` decides about
    images without any other than crowd boxes.
    """
    register_datasets(cfg)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name at least one labelled dataset.")
    sets: List[PackedRecords] = []
    for name in cfg.DATASETS.TRAIN:
        check_name(name, "DATASETS.TRAIN")
        declared = declared_set(name)
        if declared is not None:
            found = read_declared(declared, True)
        else:
            check_foreign(cfg, name)
            found = dataset_records(name)
        _check_masks(cfg, name, found)
        if cfg.MODEL.MASK_ON and declared is None:
            found = PackedRecords.of(with_masks(name, found))
        usable = has_trained_box(found)
        if not usable.any():
            skipped = Counter(box.reason for box in skipped_boxes(source_of(name)))
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            raise UserError(
                f"{name_and_source(name)} has no usable box{f' (skipped: {reasons})' if reasons else ''}: DATASETS.TRAIN needs "
                "labelled images."
            )
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and not usable.all():
            logger.info(
                f"{name}: left out {int((~usable).sum())} of {len(found)} images, which have no boxes."
            )
            found = found.where(usable)
        sets.append(found.with_value("dataset_name", name))
    records = PackedRecords.join(sets)
    _warn_unlabeled_classes(records, check_classes(cfg))
    return records


def load_unlabeled(cfg: CfgNode) -> PackedRecords:
    """The records of all of `DATASETS.UNLABELED` without annotations. No image is dropped.

    With `SSOD.PSEUDO_LABELS` each record has its stored labels, see `attach_stored_labels`.
    """
    register_datasets(cfg)
    if not cfg.DATASETS.UNLABELED and cfg.SSOD.METHODS:
        raise UserError(
            "DATASETS.UNLABELED is empty: name at least one dataset, or empty SSOD.METHODS."
        )
    sets: List[PackedRecords] = []
    for name in cfg.DATASETS.UNLABELED:
        check_name(name, "DATASETS.UNLABELED")
        declared = declared_set(name)
        if declared is not None:
            found = read_declared(declared, False)
        else:
            rows = [image_record(name, *row) for row in enumerate(load_foreign(name))]
            found = drop_missing(rows, name, sample=True, advice="correct its loader")
        if not found:
            raise UserError(f"{name_and_source(name)} lists no images: use another dataset.")
        # Only listed keys are kept, because a foreign dataset may store its truth under any key.
        images = found.only(("file_name", "image_id", "height", "width"))
        sets.append(images.with_value("dataset_name", name))
    records = PackedRecords.join(sets)
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
    lost = any(box.reason == NO_MASK for box in skipped_boxes(source_of(name)))
    some = False
    for annotation in (a for record in records for a in record.get("annotations", ())):
        if annotation.get("segmentation"):
            return
        some = True
    if some or lost:
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
    tested = {
        name: [os.path.normpath(file) for file in dataset_records(name).column("file_name")]
        for key in ("VAL", "TEST")
        for name in cfg.DATASETS[key]
        if name not in cfg.DATASETS.TRAIN
    }
    # The tested sets are the smaller ones, so their names are the ones to hold.
    wanted = {file for files in tested.values() for file in files}
    names = map(os.path.normpath, column_of(labeled, "file_name")) if wanted else ()
    trained = wanted.intersection(names)
    found: List[str] = []
    for key in ("VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            files = tested.get(name, [])
            shared = [file for file in files if file in trained]
            if shared:
                found.append(
                    f"{len(shared)} of {len(files)} images of DATASETS.{key} {name}, such as {shared[0]}, are trained on "
                    "(DATASETS.TRAIN): its AP says nothing about other images."
                )
    return found


def has_box(record: Dict[str, Any]) -> bool:
    return any(not a.get("iscrowd", 0) for a in record.get("annotations", ()))


def _warn_unlabeled_classes(records: PackedRecords, classes: List[str]) -> None:
    seen = set(label_columns(records).trained().classes.tolist())
    missing = [name for i, name in enumerate(classes) if i not in seen]
    if missing:
        logger.warning(
            f"DATASETS.TRAIN has no box of {first_names(missing)}: the model cannot learn these classes. "
            "Label some of their objects, or remove the classes."
        )
