"""Datasets by name, declared in `SSOD.DATASETS` or built into Detectron2. They are loaded and
checked as a whole.

A record is a dataset dict in Detectron2's format. (dataset_name, image_id) identifies it. Class
indices are contiguous from 0. The labels of unlabelled sets never leave this module. They are not
even read if the format allows it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ssod.config import class_number
from ssod.data import folder, voc
from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBox, SkippedBoxes, box_problem, skipped_boxes
from ssod.data.coco import CocoSet, crowd_flag, file_stamp
from ssod.data.declarations import DeclaredSet, parse_declarations, suggestion
from ssod.data.existence import drop_missing, missing_images
from ssod.data.masks import NO_MASK, read_mask
from ssod.data.records import Record, trained_classes
from ssod.data.stored_labels import attach_stored_labels
from ssod.errors import UserError, first_names, relative_to

logger = logging.getLogger(__name__)

# Names that this module has registered in Detectron2's catalogs.
_registered: Dict[str, DeclaredSet] = {}


def register_datasets(cfg: CfgNode) -> None:
    """Enters every dataset of `SSOD.DATASETS` into Detectron2's catalogs, without reading any file.

    Calling it again changes nothing. A changed declaration replaces the former one. With
    `MODEL.MASK_ON` labels are read with their masks.
    """
    masks = bool(cfg.get("MODEL", {}).get("MASK_ON", False))
    for name, dataset in parse_declarations(cfg).items():
        if masks and hasattr(dataset, "masks"):
            dataset = replace(dataset, masks=True)  # type: ignore[type-var]
        if _registered.get(name) == dataset and name in DatasetCatalog:
            continue
        if name in DatasetCatalog and name not in _registered:
            raise UserError(
                f"SSOD.DATASETS.{name} has a name that Detectron2 uses already: choose another."
            )
        if name in DatasetCatalog:
            DatasetCatalog.pop(name)
        if name in MetadataCatalog:
            MetadataCatalog.pop(name)
        DatasetCatalog.register(name, partial(_load_registered, dataset))
        metadata = MetadataCatalog.get(name).set(
            **{"evaluator_type": "coco", **dataset.metadata()}  # type: ignore[arg-type]
        )
        if dataset.truth:
            metadata.set(truth_file=dataset.truth)
        _registered[name] = dataset


@dataclass(frozen=True)
class _Loaded:
    """The records of a set, and the declaration that they were read from."""

    source: Any
    stamp: Tuple[int, int]
    records: List[Any]


# (name, whether its labels were read) -> the reading that training, evaluation and reports share.
_loaded: Dict[Tuple[str, bool], _Loaded] = {}


def forget_readings() -> None:
    """Clears the cache of readings, because files may have changed since the process's last run."""
    _loaded.clear()
    voc.classes_of_folder.cache_clear()
    folder.forget_listings()


def _read(dataset: DeclaredSet, labeled: bool) -> List[Dict[str, Any]]:
    """The records of a declared set, read once. Records whose image does not exist are left out."""
    key, stamp = (dataset.name, labeled), file_stamp(dataset.source)
    known = _loaded.get(key)
    if known is None or known.source != dataset or known.stamp != stamp:
        rows = dataset.labeled_records() if labeled else dataset.unlabeled_records()
        rows = drop_missing(rows, dataset.source, sample=not labeled)
        _loaded[key] = _Loaded(dataset, stamp, rows)
        if labeled:
            _note_classes(dataset)
    return _loaded[key].records


def _load_registered(dataset: DeclaredSet) -> List[Record]:
    """The records that `DatasetCatalog.get` returns, with labels if the format has them."""
    records = [Record(record) for record in _read(dataset, dataset.has_labels())]
    metadata = MetadataCatalog.get(dataset.name)
    if isinstance(dataset, CocoSet) and hasattr(metadata, "json_file"):
        if not dataset.is_ready_for_coco_eval():
            # Without "json_file", Detectron2's own evaluators make a file from the records, and the
            # records are clean.
            del metadata.json_file
    return records


def declared_set(name: str) -> Optional[DeclaredSet]:
    """The declaration of a set. None for a set that others registered."""
    return _registered.get(name)


def dataset_records(name: str) -> List[Dict[str, Any]]:
    """The clean records of a set that evaluation runs on. The set is declared, or registered by
    others. It is read once.

    Raises:
        UserError: the set cannot be loaded, or has boxes of an unknown form.
    """
    if name in _registered:
        return list(DatasetCatalog.get(name))
    load = DatasetCatalog[name]
    known = _loaded.get((name, True))
    if known is None or known.source != load:
        known = _Loaded(load, (0, 0), _drop_unusable(name, _load_builtin(name)))
        _loaded[name, True] = known
    return [Record(record) for record in known.records]


def _note_classes(dataset: DeclaredSet) -> None:
    # Not `Metadata.set`, which forbids that a file changes during a session.
    metadata = vars(MetadataCatalog.get(dataset.name))
    metadata["thing_classes"] = dataset.classes()
    if isinstance(dataset, CocoSet):
        metadata["thing_dataset_id_to_contiguous_id"] = dataset.category_ids()


def _check_name(name: str, key: str) -> None:
    if name not in DatasetCatalog:
        known = [*_registered, *DatasetCatalog.list()]
        hint = suggestion(name, known) if _close(name, known) else "declare it in SSOD.DATASETS."
        raise UserError(f"{key} names {name!r}, which is not declared: {hint}")


def _close(name: str, known: List[str]) -> bool:
    return "did you mean" in suggestion(name, known)


def _load_builtin(name: str) -> List[Dict[str, Any]]:
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


def _drop_unusable(name: str, records: Sequence[Any]) -> List[Dict[str, Any]]:
    """For datasets that others registered: copies of the records without the boxes that
    `box_problem` names.

    Images get numbers if none has an id. Crowd flags become 0 or 1.

    Raises:
        UserError: a record or an annotation does not have Detectron2's form.
    """
    skipped, layout = SkippedBoxes(name), BoxLayout(name)
    kept: List[Any] = [_foreign_image(name, n, record) for n, record in enumerate(records)]
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


def _foreign_image(name: str, number: int, record: Any) -> Record:
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


def _check_foreign(cfg: CfgNode, name: str) -> None:
    """Checks images and classes of a set that others registered. Declared sets are checked on
    reading.

    Raises:
        UserError: images are missing, or the model lacks some of the class indices.
    """
    if name in _registered:
        return
    dataset_records(name)
    known = _loaded[name, True]
    records = drop_missing(known.records, name, advice="correct its loader")
    _loaded[name, True] = replace(known, records=records)
    key, number = class_number(cfg)
    found = {a["category_id"] for record in records for a in record.get("annotations", ())}
    if found and not 0 <= min(found) <= max(found) < number:
        raise UserError(
            f"{name} has category_id {min(found)} to {max(found)}, but with {key} {number} class indices are 0 to "
            f"{number - 1}: count them from 0 in its loader, or set {key}."
        )
    names = dataset_classes(name)
    if names is not None and found and max(found) >= len(names):
        raise UserError(
            f"{name} has category_id {min(found)} to {max(found)}, but its thing_classes are {len(names)}: correct its metadata."
        )


def dataset_classes(name: str) -> Optional[List[str]]:
    """The class names of a registered dataset, read from its files if necessary. None if it has
    none.
    """
    if name in _registered:
        return _registered[name].classes() or None
    return MetadataCatalog.get(name).get("thing_classes")


def check_classes(cfg: CfgNode, keys: Sequence[str] = ("TRAIN", "VAL", "TEST")) -> List[str]:
    """Checks that all labelled sets have the same classes and that the model has as many. Returns
    the classes.

    Unlabelled sets may have any classes. If no set names its classes, their names are "0", "1", ...

    Args:
        keys: the lists of `DATASETS` to look at.
    """
    register_datasets(cfg)
    first: Optional[str] = None
    classes: List[str] = []
    for key in keys:
        for name in cfg.DATASETS[key]:
            _check_name(name, f"DATASETS.{key}")
            found = dataset_classes(name)
            if found is None and name in _registered:
                if _registered[name].has_labels():
                    raise UserError(f"{_source(name)} names no classes: write its categories.")
                raise UserError(
                    f"DATASETS.{key} names {name}, a folder without labels: use a labelled set."
                )
            if found is None:
                continue
            if first is None:
                first, classes = name, list(found)
            elif list(found) != classes:
                raise UserError(_class_difference(first, classes, name, list(found)))
    number_key, number = class_number(cfg)
    if first is None:  # sets that others registered may have classes without names
        return [str(index) for index in range(number)]
    if number != len(classes):
        if "TRAIN" not in keys and cfg.DATASETS.TRAIN:
            check_classes(
                cfg, ("TRAIN", *keys)
            )  # the classes of this set are read first, because another set's may be wrong
        raise UserError(
            f"{number_key} is {number}, but {_source(first)} has {len(classes)} classes: set it to {len(classes)}."
        )
    return classes


def _class_difference(first: str, classes: List[str], name: str, found: List[str]) -> str:
    parts = []
    for label, extra in (
        (first, [c for c in classes if c not in found]),
        (name, [c for c in found if c not in classes]),
    ):
        if extra:
            parts.append(f"only in {label}: {first_names(extra)}")
    difference = "; ".join(parts) or "the same names in another order"
    if parts and sorted(map(_folded, classes)) == sorted(map(_folded, found)):
        difference += "; they differ only in upper and lower case or blanks"
    sources = [str(_registered[n].source) if n in _registered else n for n in (first, name)]
    return f"{name} ({sources[1]}) and {first} ({sources[0]}) differ in their classes ({difference}): make them equal."


def _folded(name: str) -> str:
    return "".join(name.split()).casefold()


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
            _check_name(name, f"DATASETS.{key}")
            if name in _registered and not _registered[name].has_labels():
                raise UserError(
                    f"DATASETS.{key} names {name}, a folder without labels: use a labelled set."
                )
            records = dataset_records(name)
            if not records:
                raise UserError(
                    f"{_source(name)} lists no images: use another set in DATASETS.{key}."
                )
            _check_foreign(cfg, name)
            _check_masks(cfg, name, records)


def _check_masks(cfg: CfgNode, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UserError` if masks are trained and a set has boxes but no masks at all."""
    if not cfg.MODEL.MASK_ON:
        return
    found = [a for record in records for a in record.get("annotations", ())]
    lost = any(box.reason == NO_MASK for box in skipped_boxes(_skip_source(name)))
    if (found or lost) and not any(a.get("segmentation") for a in found):
        raise UserError(
            f"{_source(name)} has no masks, and MODEL.MASK_ON is True: use a set with masks, or set it to False."
        )


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
        _check_name(name, "DATASETS.TRAIN")
        if name in _registered:
            found: List[Any] = [Record(record) for record in _read(_registered[name], True)]
        else:
            _check_foreign(cfg, name)
            found = dataset_records(name)
        _check_masks(cfg, name, found)
        if cfg.MODEL.MASK_ON and name not in _registered:
            found = list(with_masks(name, found))
        usable = [record for record in found if has_box(record)]
        if not usable:
            skipped = Counter(box.reason for box in skipped_boxes(_skip_source(name)))
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            raise UserError(
                f"{_source(name)} has no usable box{f' (skipped: {reasons})' if reasons else ''}: DATASETS.TRAIN needs "
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
        _check_name(name, "DATASETS.UNLABELED")
        if name in _registered:
            found = _read(_registered[name], False)
        else:
            found = [_foreign_image(name, *row) for row in enumerate(_load_builtin(name))]
            found = drop_missing(found, name, sample=True, advice="correct its loader")
        if not found:
            raise UserError(f"{_source(name)} lists no images: use another dataset.")
        records += [_named(_image_alone(record), name) for record in found]
    if cfg.SSOD.PSEUDO_LABELS:
        records = attach_stored_labels(
            records, cfg.SSOD.PSEUDO_LABELS, check_classes(cfg), masks=cfg.MODEL.MASK_ON
        )
    return records


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


def _skip_source(name: str) -> str:
    return _registered[name].source if name in _registered else name


def skipped_of(name: str) -> Tuple[str, List[SkippedBox], List[str]]:
    """The source of a set, and the boxes and missing images that were skipped when it was read."""
    source = _skip_source(name)
    return source, skipped_boxes(source), missing_images(source)


def _source(name: str) -> str:
    return f"{name} ({_registered[name].source})" if name in _registered else name


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
