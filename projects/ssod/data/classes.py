"""The classes of datasets, which must agree with each other and with the model."""

from __future__ import annotations

from typing import List, Optional, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ssod.config import class_number
from ssod.data.label_columns import label_columns
from ssod.data.readings import (
    check_name,
    declared_set,
    keep_existing,
    name_and_source,
    register_datasets,
    source_of,
)
from ssod.errors import UserError, first_names


def dataset_classes(name: str) -> Optional[List[str]]:
    """The class names of a registered dataset, read from its files if necessary. None if it has
    none.
    """
    declared = declared_set(name)
    if declared is not None:
        return declared.classes() or None
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
            check_name(name, f"DATASETS.{key}")
            found = dataset_classes(name)
            declared = declared_set(name)
            if found is None and declared is not None:
                if declared.has_labels():
                    raise UserError(
                        f"{name_and_source(name)} names no classes: write its categories."
                    )
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
            f"{number_key} is {number}, but {name_and_source(first)} has {len(classes)} classes: set it to {len(classes)}."
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
    sources = [source_of(n) for n in (first, name)]
    return f"{name} ({sources[1]}) and {first} ({sources[0]}) differ in their classes ({difference}): make them equal."


def _folded(name: str) -> str:
    return "".join(name.split()).casefold()


def check_foreign(cfg: CfgNode, name: str) -> None:
    """Checks images and classes of a set that others registered. Declared sets are checked on
    reading.

    Raises:
        UserError: images are missing, or the model lacks some of the class indices.
    """
    if declared_set(name) is not None:
        return
    records = keep_existing(name)
    key, number = class_number(cfg)
    found = set(label_columns(records).classes.tolist())
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
