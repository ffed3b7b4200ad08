"""The runs of a diagnosis: one burn-in a seed, and rows that differ in where their labels come
from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ssod.data.catalog import load_unlabeled
from ssod.data.coco_content import category_map, read_coco
from ssod.data.readings import register_datasets
from ssod.data.truth import HiddenTruth
from ssod.diagnosis.oracle import OracleLabels
from ssod.diagnosis.substitution import SUBSTITUTIONS
from ssod.engine.loading import training_data
from ssod.errors import UserError
from ssod.methods import TrainingData, get_method, learns_from_unlabeled
from ssod.sweep.plan import Row
from ssod.utils.atomic import write_atomically

BURN_IN, WITHOUT, AS_IS, ALL_LABELS = "burn_in", "no_unlabeled", "as_it_is", "all_labels"
# In the order of the table.
ROWS = (WITHOUT, AS_IS, *reversed(SUBSTITUTIONS), ALL_LABELS)
MEANING = {
    WITHOUT: "the same recipe without unlabelled images",
    AS_IS: "the recipe as it is",
    "true_classes": "the teacher's boxes with true classes",
    "no_false_labels": "the teacher's labels without its false ones",
    "found_boxes": "true boxes of the objects that the teacher finds",
    "true_labels": "true labels in place of the teacher's",
    ALL_LABELS: "the same recipe without unlabelled images, all of them labelled, from the first step",
}


@dataclass(frozen=True)
class Split:
    """Which methods of a recipe stay when there are no unlabelled images, and which are left
    out.
    """

    kept: Tuple[str, ...]
    dropped: Tuple[str, ...]


def check_recipe(cfg: CfgNode) -> None:
    """Checks that a config can be diagnosed.

    Raises:
        UserError: nothing learns from unlabelled images, labels are stored, or an unlabelled set
            has no TRUTH.
    """
    if not learns_from_unlabeled(cfg):
        raise UserError(
            "No method of SSOD.METHODS learns from unlabelled images: there are no pseudo-labels to diagnose."
        )
    if cfg.SSOD.PSEUDO_LABELS:
        raise UserError(
            "SSOD.PSEUDO_LABELS is set: a diagnosis needs labels of an online teacher; empty it."
        )
    if not cfg.DATASETS.TEST:
        raise UserError(
            "DATASETS.TEST is empty, so there is nothing to compare: name a labelled set."
        )
    register_datasets(cfg)
    for name in cfg.DATASETS.UNLABELED:
        if not MetadataCatalog.get(name).get("truth_file"):
            raise UserError(
                f"{name} has no TRUTH: name a COCO file with its labels in SSOD.DATASETS.{name}.TRUTH."
            )
    records = load_unlabeled(cfg)
    hidden = HiddenTruth(cfg.DATASETS.UNLABELED, training_data(cfg).class_names)
    hidden.check(records)


def without_unlabeled(cfg: CfgNode) -> Split:
    """Splits SSOD.METHODS. A method that refuses a run without unlabelled images is left out."""
    data = training_data(cfg)
    alone = TrainingData(data.labeled, [], data.class_names)
    kept: List[str] = []
    for name in cfg.SSOD.METHODS:
        kind = get_method(name)
        if kind.needs_unlabeled or not set(kind.requires) <= set(kept):
            continue
        try:
            kind(**kind.from_config(cfg)).setup(alone)
        except UserError:
            continue
        kept.append(name)
    return Split(tuple(kept), tuple(n for n in cfg.SSOD.METHODS if n not in kept))


def overrides_without_unlabeled(cfg: CfgNode) -> Tuple[str, ...]:
    """KEY VALUE ... that make a recipe the same one without unlabelled images."""
    return ("SSOD.METHODS", _tuple(without_unlabeled(cfg).kept), "DATASETS.UNLABELED", "()")


def make_rows(
    config: str, cfg: CfgNode, names: Sequence[str], output: str, start: str
) -> Tuple[Row, ...]:
    """The rows called `names`, in the order of `ROWS`.

    Args:
        config, cfg: the recipe's file and what it says. output: of the diagnosis. start: the
            burn-in's checkpoint, with "{seed}"; empty where there is no burn-in.
    """
    shared = ("SSOD.BURN_IN_CHECKPOINT", start) if start else ()
    rows = []
    for name in ROWS:
        if name not in names:
            continue
        if name == AS_IS:
            rows.append(Row(name, config, shared))
        elif name == WITHOUT:
            rows.append(Row(name, config, (*shared, *overrides_without_unlabeled(cfg))))
        elif name == ALL_LABELS:
            path = _write_all_labels(config, cfg, output, without_unlabeled(cfg).kept)
            rows.append(Row(name, path, ("SSOD.BURN_IN_CHECKPOINT", "")))
        else:
            methods = _tuple((*_repaired(cfg, name), OracleLabels.__name__))
            repaired = ("SSOD.METHODS", methods, "SSOD.ORACLE_LABELS.SUBSTITUTION", name)
            rows.append(Row(name, config, (*shared, *repaired)))
    return tuple(rows)


def _repaired(cfg: CfgNode, substitution: str) -> List[str]:
    """The recipe's methods with the oracle.

    With true labels, methods that ask the teacher for more than labels are left out.
    """
    alone = substitution == "true_labels"
    return [n for n in cfg.SSOD.METHODS if not (alone and get_method(n).needs_online_teacher)]


def _tuple(names: Sequence[str]) -> str:
    return repr(tuple(names))


def _write_all_labels(config: str, cfg: CfgNode, output: str, methods: Sequence[str]) -> str:
    """A config that trains on the labelled images and on the truth of the unlabelled ones."""
    folder = os.path.join(os.path.abspath(output), ALL_LABELS)
    os.makedirs(folder, exist_ok=True)
    classes = list(training_data(cfg).class_names)
    declared = {}
    for name in cfg.DATASETS.UNLABELED:
        metadata = MetadataCatalog.get(name)
        path = os.path.join(folder, f"{name}.json")
        content = json.dumps(_with_classes(metadata.truth_file, classes)).encode()
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
        declared[f"{name}_true"] = {
            "FORMAT": "coco",
            "ANNOTATIONS": path,
            "IMAGES": os.path.abspath(metadata.image_root),
        }
    value: Dict[str, Any] = {
        "_BASE_": os.path.abspath(config),
        "DATASETS": {"TRAIN": [*cfg.DATASETS.TRAIN, *declared], "UNLABELED": []},
        "SSOD": {"METHODS": list(methods), "DATASETS": declared},
    }
    path = os.path.join(folder, f"{ALL_LABELS}.yaml")
    Path(path).write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def _with_classes(path: str, classes: Sequence[str]) -> Dict[str, Any]:
    """A COCO file with the training classes in their order; boxes of other classes are left out."""
    content = read_coco(path, ("images", "annotations", "categories"))
    known = {name: index + 1 for index, name in enumerate(classes)}
    ids = {
        category: known[name]
        for category, (_, name) in category_map(path, content["categories"]).items()
        if name in known
    }
    annotations = [
        {**a, "category_id": ids[a["category_id"]]}
        for a in content["annotations"]
        if a.get("category_id") in ids
    ]
    categories = [{"id": index, "name": name} for name, index in known.items()]
    return {"images": content["images"], "annotations": annotations, "categories": categories}
