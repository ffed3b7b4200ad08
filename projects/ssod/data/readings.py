"""The datasets of `SSOD.DATASETS` in Detectron2's catalogs, each read once for all who use it.

A record is a dataset dict in Detectron2's format. (dataset_name, image_id) identifies it. Class
indices are contiguous from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ssod.data import folder, voc
from ssod.data.boxes import SkippedBox, skipped_boxes
from ssod.data.coco import CocoSet
from ssod.data.declarations import DeclaredSet, parse_declarations, suggestion
from ssod.data.existence import drop_missing, missing_images
from ssod.data.foreign import clean_records, load_foreign
from ssod.data.json_file import file_stamp
from ssod.data.packed import PackedRecords
from ssod.errors import UserError

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
    records: PackedRecords


# (name, whether its labels were read) -> the reading that training, evaluation and reports share.
_loaded: Dict[Tuple[str, bool], _Loaded] = {}


def forget_readings() -> None:
    """Clears the cache of readings, because files may have changed since the process's last run."""
    _loaded.clear()
    voc.classes_of_folder.cache_clear()
    folder.forget_listings()


def read_declared(dataset: DeclaredSet, labeled: bool) -> PackedRecords:
    """The records of a declared set, read once. Records whose image does not exist are left out."""
    key, stamp = (dataset.name, labeled), file_stamp(dataset.source)
    known = _loaded.get(key)
    if known is None or known.source != dataset or known.stamp != stamp:
        found = dataset.labeled_records() if labeled else dataset.unlabeled_records()
        rows = drop_missing(found, dataset.source, sample=not labeled)
        _loaded[key] = _Loaded(dataset, stamp, rows)
        if labeled:
            _note_classes(dataset)
    return _loaded[key].records


def _load_registered(dataset: DeclaredSet) -> PackedRecords:
    """The records that `DatasetCatalog.get` returns, with labels if the format has them."""
    records = read_declared(dataset, dataset.has_labels())
    metadata = MetadataCatalog.get(dataset.name)
    if isinstance(dataset, CocoSet) and hasattr(metadata, "json_file"):
        if not dataset.is_ready_for_coco_eval():
            # Without "json_file", Detectron2's own evaluators make a file from the records, and the
            # records are clean.
            del metadata.json_file
    return records


def _note_classes(dataset: DeclaredSet) -> None:
    # Not `Metadata.set`, which forbids that a file changes during a session.
    metadata = vars(MetadataCatalog.get(dataset.name))
    metadata["thing_classes"] = dataset.classes()
    if isinstance(dataset, CocoSet):
        metadata["thing_dataset_id_to_contiguous_id"] = dataset.category_ids()


def declared_set(name: str) -> Optional[DeclaredSet]:
    """The declaration of a set. None for a set that others registered."""
    return _registered.get(name)


def check_name(name: str, key: str) -> None:
    if name not in DatasetCatalog:
        known = [*_registered, *DatasetCatalog.list()]
        hint = suggestion(name, known) if _close(name, known) else "declare it in SSOD.DATASETS."
        raise UserError(f"{key} names {name!r}, which is not declared: {hint}")


def _close(name: str, known: List[str]) -> bool:
    return "did you mean" in suggestion(name, known)


def dataset_records(name: str) -> PackedRecords:
    """The clean records of a set that evaluation runs on. The set is declared, or registered by
    others. It is read once.

    Raises:
        UserError: the set cannot be loaded, or has boxes of an unknown form.
    """
    if name in _registered:
        return DatasetCatalog.get(name)
    load = DatasetCatalog[name]
    known = _loaded.get((name, True))
    if known is None or known.source != load:
        clean = clean_records(name, load_foreign(name))
        known = _loaded[name, True] = _Loaded(load, (0, 0), PackedRecords.of(clean))
    return known.records


def keep_existing(name: str) -> PackedRecords:
    """The records of a set that others registered, from now on without those whose image does not
    exist.
    """
    dataset_records(name)
    known = _loaded[name, True]
    records = drop_missing(known.records, name, advice="correct its loader")
    _loaded[name, True] = replace(known, records=records)
    return records


def source_of(name: str) -> str:
    return _registered[name].source if name in _registered else name


def name_and_source(name: str) -> str:
    return f"{name} ({_registered[name].source})" if name in _registered else name


def skipped_of(name: str) -> Tuple[str, List[SkippedBox], List[str]]:
    """The source of a set, and the boxes and missing images that were skipped when it was read."""
    source = source_of(name)
    return source, skipped_boxes(source), missing_images(source)
