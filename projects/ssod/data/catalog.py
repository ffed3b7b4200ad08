"""Datasets by name: declared in `SSOD.DATASETS` or built into Detectron2; loaded and checked as a whole.

A record is a dataset dict in Detectron2's format; (dataset_name, image_id) identifies it. Class indices are contiguous
from 0. The labels of unlabelled sets never leave this module: they are not even read where the format allows it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.coco import CocoSet
from ssod.data.declarations import DeclaredSet, parse_declarations, suggestion
from ssod.data.records import Record
from ssod.data.stored_labels import attach_stored_labels
from ssod.errors import UserError

logger = logging.getLogger(__name__)

# What this module has put into Detectron2's catalogs.
_registered: Dict[str, DeclaredSet] = {}


def register_datasets(cfg: CfgNode) -> None:
    """Enters every dataset of `SSOD.DATASETS` into Detectron2's catalogs, without reading any file.

    Calling it again changes nothing; a changed declaration replaces the former one.
    """
    for name, dataset in parse_declarations(cfg).items():
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


def _load_registered(dataset: DeclaredSet) -> List[Record]:
    """What `DatasetCatalog.get` returns: with labels where the format has them."""
    if not dataset.has_labels():
        return dataset.unlabeled_records()
    records = dataset.labeled_records()
    _note_classes(dataset)
    metadata = MetadataCatalog.get(dataset.name)
    if isinstance(dataset, CocoSet) and hasattr(metadata, "json_file"):
        if not dataset.is_ready_for_coco_eval():
            # Without "json_file" Detectron2's COCOEvaluator writes a file from the records, which are clean.
            del metadata.json_file
            logger.info(
                f"{dataset.annotations} is converted for evaluation: it has incomplete annotations."
            )
    return records


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
            f"{error.filename}, needed by the dataset {name}, does not exist: put it there or set DETECTRON2_DATASETS."
        ) from None


def _drop_unusable(name: str, records: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """For datasets that others registered: copies of the records without the boxes that `box_problem` names."""
    skipped = SkippedBoxes(name)
    kept: List[Dict[str, Any]] = []
    for record in records:
        annotations = []
        for annotation in record.get("annotations", []):
            mode = BoxMode(annotation["bbox_mode"])
            box = BoxMode.convert([float(v) for v in annotation["bbox"]], mode, BoxMode.XYXY_ABS)
            problem = box_problem(box, record.get("height"), record.get("width"))
            if problem:
                skipped.add(f"image {record.get('image_id')}", problem)
            else:
                annotations.append(annotation)
        kept.append(Record({**record, "annotations": annotations}))
    skipped.report()
    return kept


def dataset_classes(name: str) -> Optional[List[str]]:
    """The class names of a registered dataset, read from its files if need be; None where it has none."""
    if name in _registered:
        return _registered[name].classes() or None
    return MetadataCatalog.get(name).get("thing_classes")


def class_number(cfg: CfgNode) -> Tuple[str, int]:
    """The key that holds the model's number of classes, and the number."""
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return "MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET.NUM_CLASSES
    return "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES


def check_classes(cfg: CfgNode) -> List[str]:
    """Checks that all labelled sets have the same classes and that the model has as many; returns them.

    Unlabelled sets may have any classes.
    """
    register_datasets(cfg)
    first: Optional[str] = None
    classes: List[str] = []
    for key in ("TRAIN", "VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            _check_name(name, f"DATASETS.{key}")
            found = dataset_classes(name)
            if found is None and name in _registered:
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
    if classes and number != len(classes):
        raise UserError(
            f"{number_key} is {number}, but {first} has {len(classes)} classes: set it to {len(classes)}."
        )
    return classes


def _class_difference(first: str, classes: List[str], name: str, found: List[str]) -> str:
    parts = []
    for label, extra in (
        (first, [c for c in classes if c not in found]),
        (name, [c for c in found if c not in classes]),
    ):
        if extra:
            parts.append(
                f"only in {label}: {', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}"
            )
    difference = "; ".join(parts) or "the same names in another order"
    sources = [str(_registered[n].source) if n in _registered else n for n in (first, name)]
    return f"{name} ({sources[1]}) and {first} ({sources[0]}) differ in their classes ({difference}): make them equal."


def load_labeled(cfg: CfgNode) -> List[Dict[str, Any]]:
    """The records of all of `DATASETS.TRAIN`, checked.

    Unusable boxes are left out with a warning; images without any other than crowd boxes follow
    `DATALOADER.FILTER_EMPTY_ANNOTATIONS`.
    """
    register_datasets(cfg)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name at least one labelled dataset.")
    records: List[Dict[str, Any]] = []
    for name in cfg.DATASETS.TRAIN:
        _check_name(name, "DATASETS.TRAIN")
        if name in _registered:
            found: List[Dict[str, Any]] = list(_registered[name].labeled_records())
            _note_classes(_registered[name])
        else:
            found = _drop_unusable(name, _load_builtin(name))
        usable = [record for record in found if _has_box(record)]
        if not usable:
            raise UserError(
                f"{_source(name)} has no usable box: DATASETS.TRAIN needs labelled images."
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
    """The records of all of `DATASETS.UNLABELED` without annotations; no image is dropped.

    With `SSOD.PSEUDO_LABELS` each record brings its stored labels, see `attach_stored_labels`.
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
            found: List[Any] = list(_registered[name].unlabeled_records())
        else:
            found = _load_builtin(name)
        if not found:
            raise UserError(f"{_source(name)} lists no images: use another dataset.")
        records += [_named(_image_alone(record), name) for record in found]
    if cfg.SSOD.PSEUDO_LABELS:
        records = attach_stored_labels(records, cfg.SSOD.PSEUDO_LABELS, check_classes(cfg))
    return records


def _image_alone(record: Dict[str, Any]) -> Record:
    # A list of what may pass, not of what may not: a dataset of others can carry its truth under any key.
    return Record(
        {k: record[k] for k in ("file_name", "image_id", "height", "width") if k in record}
    )


def _named(record: Dict[str, Any], name: str) -> Dict[str, Any]:
    record["dataset_name"] = name
    return record


def _source(name: str) -> str:
    return f"{name} ({_registered[name].source})" if name in _registered else name


def _has_box(record: Dict[str, Any]) -> bool:
    return any(not a.get("iscrowd", 0) for a in record["annotations"])


def _warn_unlabeled_classes(records: List[Dict[str, Any]], classes: List[str]) -> None:
    seen = {a["category_id"] for r in records for a in r["annotations"] if not a.get("iscrowd", 0)}
    missing = [name for i, name in enumerate(classes) if i not in seen]
    if missing:
        logger.warning(
            f"DATASETS.TRAIN has no box of {', '.join(missing)}: the model cannot learn these classes."
        )
