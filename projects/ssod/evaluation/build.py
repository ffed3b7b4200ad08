"""Builds a dataset's evaluator, and evaluates a model on several datasets."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    inference_on_dataset,
)
from detectron2.utils import comm
from torch import nn

from ssod.data.catalog import has_box, read_test_sets
from ssod.data.classes import check_classes, dataset_classes
from ssod.data.mapper import UnreadableImage, read_image
from ssod.data.readings import dataset_records
from ssod.errors import UserError
from ssod.evaluation.coco import FastCOCOEvaluator
from ssod.evaluation.groups import GroupCOCOEvaluator, read_groups
from ssod.evaluation.loader import ReadableImages, build_test_loader
from ssod.evaluation.lvis import FederatedEvaluator, lvis_truth, require_lvis
from ssod.evaluation.truth import evaluation_truth
from ssod.evaluation.voc import VOCEvaluator

logger = logging.getLogger(__name__)

# (dataset name, output folder) -> evaluator
EvaluatorFactory = Callable[[str, str], DatasetEvaluator]


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluator of a dataset, by its `evaluator_type` in `MetadataCatalog`: "coco", "lvis" or
    "pascal_voc". A dataset without a type gets "coco".

    A set in VOC's layout that declares EVALUATOR gets VOC's metric beside COCO's. With
    `MODEL.MASK_ON` masks are evaluated too, as "segm" beside "bbox".

    Called on all ranks.

    Raises:
        UserError: the dataset is not registered, or its type is another one.
    """
    _check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", "coco")
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else None
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "lvis":
        return FederatedEvaluator(dataset_name, output_dir=output_folder, tasks=tasks)
    if kind != "coco":
        raise UserError(
            f"Dataset {dataset_name} has evaluator_type {kind!r}: use 'coco', 'lvis' or 'pascal_voc', or override "
            "SSODTrainer.build_evaluator."
        )
    if metadata.get("voc_year"):
        return VOCEvaluator(dataset_name, output_dir=output_folder)
    if metadata.get("groups_file"):
        return GroupCOCOEvaluator(dataset_name, output_dir=output_folder, tasks=tasks)
    return FastCOCOEvaluator(dataset_name, output_dir=output_folder, tasks=tasks)


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    dataset_names: Sequence[str],
    output_folder: str,
    build: Optional[EvaluatorFactory] = None,
    build_loader: Optional[Callable[[str], Any]] = None,
) -> "OrderedDict[str, Any]":
    """Runs `model` in eval mode on each dataset.

    Called on all ranks, which share the images.

    Args:
        output_folder: predictions go to a folder of the dataset's name in it.
        build: makes the evaluator of a dataset; `build_evaluator` by default.
        build_loader: makes its loader; `build_test_loader` by default.

    Returns:
        {dataset: {"bbox": {"AP": ..., "AP50": ..., ...}}}, in percent, with masks also "segm";
        {dataset: {}} on ranks other than 0.
    """
    results: "OrderedDict[str, Any]" = OrderedDict()
    for name in dataset_names:
        _check_registered(name)
        folder = os.path.join(output_folder, name)
        with quiet_evaluation():
            evaluator = build(name, folder) if build else build_evaluator(cfg, name, folder)
            loader = build_loader(name) if build_loader else build_test_loader(cfg, name)
            readable = ReadableImages(loader, f"evaluating on {name}")
            if hasattr(evaluator, "unreadable"):
                evaluator.unreadable = readable.unreadable
            results[name] = inference_on_dataset(model, readable, evaluator)
        note_unreadable(name, readable)
    return results


# Dataset -> the images that evaluation could not read: file name -> reason.
_unreadable: Dict[str, Dict[str, str]] = {}


def unreadable_images(dataset_name: str) -> Dict[str, str]:
    """The images of a dataset that evaluations of this process could not read, with the reasons."""
    return dict(_unreadable.get(dataset_name, {}))


def note_unreadable(name: str, loader: ReadableImages) -> None:
    """Counts, once, the images that any rank could not read. Called on all ranks.

    Raises:
        UserError: not one image could be read.
    """
    found: Dict[str, str] = {}
    for rows in comm.all_gather(list(loader.unreadable.values())):
        found.update(rows)
    known = _unreadable.setdefault(name, {})
    new = {path: reason for path, reason in found.items() if path not in known}
    known.update(new)
    if not new:
        return
    path, reason = next(iter(new.items()))
    total = len(dataset_records(name))
    if len(found) >= total:
        raise _nothing_readable(name, total, path, reason)
    logger.warning(
        f"{name}: {len(new)} of {total} images cannot be read and are left out of the evaluation, with their boxes: "
        f"{path} ({reason})" + (", ..." if len(new) > 1 else "")
    )


def _nothing_readable(name: str, total: int, path: str, reason: str) -> UserError:
    return UserError(
        f"Not one of the {total} images of {name} can be read, such as {path} ({reason}): correct the files."
    )


def _check_readable(name: str, image_format: str) -> None:
    """Raises `UserError` where no image of a set can be read.

    It stops at the first image that can be read.
    """
    records = dataset_records(name)
    error: Optional[UnreadableImage] = None
    for record in records:
        try:
            read_image(record, image_format)
            return
        except UnreadableImage as caught:
            error = error or caught
    if error is not None:
        raise _nothing_readable(name, len(records), error.file_name, error.reason)


def format_metrics(metrics: Mapping[str, float], most: int = 20) -> str:
    """One line of numbers. Single classes are left out if there are more than `most` numbers."""
    classes = [name for name in metrics if name.startswith("AP-")]
    hidden = set(classes) if len(classes) > most else set()
    numbers = [f"{name} {value:.2f}" for name, value in metrics.items() if name not in hidden]
    if hidden:
        numbers.append(f"(and AP of {len(hidden):,} classes)")
    return ", ".join(numbers)


def prepare_evaluation(cfg: CfgNode, keys: Sequence[str]) -> None:
    """Reads and checks the test sets of a run before its first step.

    Args:
        keys: lists of `DATASETS`: VAL, TEST.

    Raises:
        UserError: an error that the first evaluation would have raised.
    """
    read_test_sets(cfg, keys)
    for key in keys:
        for name in cfg.DATASETS[key]:
            check_evaluation(name)
            _check_readable(name, cfg.INPUT.FORMAT)
            if not any(has_box(record) for record in dataset_records(name)):
                what = "so its AP is nan"
                if key == "VAL":
                    what += ", no best model can be chosen, and teacher_best.pth will be the last teacher"
                logger.warning(f"DATASETS.{key} {name} has no boxes, {what}.")
    check_classes(cfg, keys)


def check_evaluation(dataset_name: str) -> None:
    """Raises the `UserError` that a dataset's first evaluation would raise: a package is missing,
    or files do not fit.
    """
    _unreadable.pop(dataset_name, None)  # of an earlier run of this process
    metadata = MetadataCatalog.get(dataset_name)
    require_lvis(dataset_name)
    if metadata.get("evaluator_type") == "lvis":
        lvis_truth(dataset_name)
    elif metadata.get("evaluator_type", "coco") == "coco":
        evaluation_truth(dataset_name)
    if metadata.get("groups_file"):
        read_groups(metadata.groups_file, dataset_classes(dataset_name) or ())


def _check_registered(name: str) -> None:
    known = DatasetCatalog.list()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"Dataset {name!r} is not registered: declare it under SSOD.DATASETS"
            + (f", or did you mean {near[0]!r}?" if near else ".")
        )


@contextlib.contextmanager
def quiet_evaluation() -> Iterator[None]:
    """Keeps only the warnings of Detectron2's log. The caller logs each evaluation in one line."""
    names: Tuple[str, ...] = (
        "detectron2.evaluation",
        "detectron2.data",
        "detectron2.utils.file_io",
    )
    # Modules that have a level of their own do not inherit ours, so they are set as well.
    names += tuple(
        n
        for n in logging.root.manager.loggerDict
        if n.startswith(tuple(f"{name}." for name in names))
    )
    loggers = [logging.getLogger(name) for name in names]
    levels = [item.level for item in loggers]
    for item in loggers:
        item.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for item, level in zip(loggers, levels):
            item.setLevel(level)
