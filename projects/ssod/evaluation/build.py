"""Which evaluator a dataset gets, and one call that evaluates a model on several datasets."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections import OrderedDict
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import (
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    inference_on_dataset,
)
from detectron2.utils import comm
from torch import nn

from ssod.data.catalog import dataset_classes
from ssod.errors import UserError
from ssod.evaluation.coco import FastCOCOEvaluator
from ssod.evaluation.groups import GroupCOCOEvaluator, read_groups
from ssod.evaluation.lvis import FederatedEvaluator, check_lvis_file, require_lvis

# (dataset name, output folder) -> evaluator
EvaluatorFactory = Callable[[str, str], DatasetEvaluator]


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluator for `MetadataCatalog.get(dataset_name).evaluator_type`: "coco" (also when there is none), "lvis", "pascal_voc".

    Called on all ranks.

    Raises:
        UserError: the dataset is not registered, or its type is another one.
    """
    _check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", "coco")
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "lvis":
        return FederatedEvaluator(dataset_name, output_dir=output_folder)
    if kind != "coco":
        raise UserError(
            f"Dataset {dataset_name} has evaluator_type {kind!r}: use 'coco', 'lvis' or 'pascal_voc', or override "
            "SSODTrainer.build_evaluator."
        )
    if not hasattr(metadata, "json_file"):
        # Detectron2 converts into a file too, but takes one that an earlier run with other annotations has left.
        if comm.is_main_process():
            convert_to_coco_json(
                dataset_name,
                os.path.join(output_folder, f"{dataset_name}_coco_format.json"),
                allow_cached=False,
            )
        comm.synchronize()
    if metadata.get("groups_file"):
        return GroupCOCOEvaluator(dataset_name, output_dir=output_folder)
    return FastCOCOEvaluator(dataset_name, output_dir=output_folder)


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    dataset_names: Sequence[str],
    output_folder: str,
    build: Optional[EvaluatorFactory] = None,
    build_loader: Optional[Callable[[str], Any]] = None,
) -> "OrderedDict[str, Any]":
    """Runs `model` in eval mode on each dataset. Called on all ranks; the images are shared out among them.

    Args:
        output_folder: predictions go to a folder of the dataset's name in it.
        build: makes the evaluator of a dataset; `build_evaluator` by default.
        build_loader: makes its loader; Detectron2's by default.

    Returns:
        {dataset: {"bbox": {"AP": ..., "AP50": ..., ...}}}, in percent; {dataset: {}} on ranks other than 0.
    """
    results: "OrderedDict[str, Any]" = OrderedDict()
    for name in dataset_names:
        _check_registered(name)
        folder = os.path.join(output_folder, name)
        with quiet_evaluation():
            evaluator = build(name, folder) if build else build_evaluator(cfg, name, folder)
            loader = build_loader(name) if build_loader else build_detection_test_loader(cfg, name)
            results[name] = inference_on_dataset(model, loader, evaluator)
    return results


def check_evaluation(dataset_name: str) -> None:
    """Raises now the `UserError` that a declared dataset's first evaluation would: a missing package, files that do not fit."""
    metadata = MetadataCatalog.get(dataset_name)
    require_lvis(dataset_name)
    if metadata.get("evaluator_type") == "lvis":
        check_lvis_file(metadata.json_file)
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
    """Leaves of Detectron2's log only warnings: an evaluation during training is one line, written by who asked for it."""
    names: Tuple[str, ...] = (
        "detectron2.evaluation",
        "detectron2.data",
        "detectron2.utils.file_io",
    )
    # Those of its modules that have a level of their own would not inherit ours.
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
