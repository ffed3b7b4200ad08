"""`ssod.tools.label`: a detector's boxes, or an image set's hidden truth, for an annotation tool.

Shapes: K classes; boxes are XYXY in pixels of the image file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ssod.active_learning.candidates import (
    Records,
    image_sets,
    same_file,
    select_listed,
    unlabelled_images,
)
from ssod.active_learning.detection import box_counts, detect, thresholds
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes, dataset_classes
from ssod.data.coco import CocoSet
from ssod.data.formats.writing.labels import LabelSet, ScoredBox, ScoredImage
from ssod.data.formats.writing.registry import WRITERS, check_output, write_labels_for
from ssod.errors import UserError, first_names
from ssod.utils.run_folder import weights_of


@dataclass(frozen=True)
class Request:
    """What to label, and for whom.

    Args:
        tool: a key of `WRITERS`. datasets: instead of `DATASETS.UNLABELED`. listed: a file that
            names some of their images; "" for all.
        threshold: on the score; None: matched to the labelled set. url: see `write_label_studio`.
    """

    tool: str
    output: str
    datasets: Tuple[str, ...] = ()
    listed: str = ""
    threshold: Optional[float] = None
    url: str = ""


@dataclass
class Labelled:
    """An image's boxes, or why it cannot be read."""

    size: Tuple[int, int] = (0, 0)
    boxes: Optional[List[ScoredBox]] = None
    problem: str = ""


def wanted_images(cfg: CfgNode, listed: str) -> Records:
    """The images of a list, or all that are not labelled yet."""
    if listed:
        return select_listed(load_unlabeled(cfg), listed)
    return unlabelled_images(cfg)[0]


def label_for_tool(cfg: CfgNode, weights: str, request: Request) -> None:
    """Writes a detector's boxes; called on all ranks.

    Args:
        weights: a weights file, a full checkpoint (its teacher labels) or a run's folder.
    """
    check_output(request.output)
    cfg = image_sets(cfg, request.datasets)
    records, names = wanted_images(cfg, request.listed), check_classes(cfg)
    store = detect(cfg, weights, records, f"{os.path.normpath(request.output)}.predictions").teacher
    if comm.is_main_process():
        if request.threshold is None:
            labelled = load_labeled(cfg)
            limits = thresholds(store, box_counts(labelled, len(names)), len(labelled))
        else:
            limits = torch.full((len(names),), request.threshold, dtype=torch.float64)
        rows: List[Labelled] = []
        for row in store:
            if row.found is None:
                rows.append(Labelled(problem=row.problem))
                continue
            found = row.found[row.found.scores >= limits[row.found.pred_classes]]
            columns = found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()
            boxes = [
                ScoredBox(label, tuple(corners), score)
                for corners, label, score in zip(*columns, found.scores.tolist())
            ]
            rows.append(Labelled(row.found.image_size, boxes))
        if request.threshold is None:
            shown = "; ".join(
                f"{name} {'none' if limit > 1 else f'{limit:.2f}'}"
                for name, limit in zip(names, limits.tolist())
            )
            print(f"thresholds, matched to the labelled set: {shown}")
        _write(records, rows, names, weights_of(weights), request)
    comm.synchronize()


def label_with_truth(cfg: CfgNode, request: Request) -> None:
    """Writes the true boxes of the images, as if an annotator had drawn them.

    Raises:
        UserError: an image set has no truth.
    """
    check_output(request.output)
    cfg = image_sets(cfg, request.datasets)
    records, names = wanted_images(cfg, request.listed), check_classes(cfg)
    truth: Dict[str, Dict[str, Labelled]] = {}
    rows = []
    for record in records:
        dataset = record["dataset_name"]
        if dataset not in truth:
            truth[dataset] = dict(_true_boxes(dataset, names))
        known = truth[dataset].get(same_file(record["file_name"]))
        rows.append(known or Labelled(problem="it has no truth"))
    _write(records, rows, names, "", request)


def _true_boxes(dataset: str, names: Sequence[str]) -> Iterator[Tuple[str, Labelled]]:
    """(file, boxes) of a set's images: from its TRUTH, or its own labels."""
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("truth_file"):
        hidden = CocoSet(dataset, metadata.truth_file, metadata.get("image_root", ""))
        records, own = hidden.labeled_records(), hidden.classes()
    else:
        records, own = DatasetCatalog.get(dataset), dataset_classes(dataset) or []
    if not any(record.get("annotations") for record in records):
        raise UserError(
            f"{dataset} has no true labels: give it TRUTH, a file with them, to simulate an annotator."
        )
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise UserError(
            f"The truth of {dataset} has classes that DATASETS.TRAIN has not: {first_names(unknown)}."
        )
    for record in records:
        boxes = []
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd"):
                continue
            mode = BoxMode(annotation["bbox_mode"])
            corners = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
            boxes.append(ScoredBox(names.index(own[annotation["category_id"]]), tuple(corners)))
        yield same_file(record["file_name"]), Labelled((record["height"], record["width"]), boxes)


def common_root(records: Records) -> str:
    """The deepest folder above all images; for one set its IMAGES, where they lie below it."""
    files = [os.path.abspath(record["file_name"]) for record in records]
    names = {record["dataset_name"] for record in records}
    if len(names) == 1:
        root = MetadataCatalog.get(names.pop()).get("image_root")
        inside = os.path.abspath(root) + os.sep if root else None
        if inside and all(os.path.normpath(file).startswith(inside) for file in files):
            return os.path.abspath(root)
    return os.path.commonpath([os.path.dirname(file) for file in files])


def _write(
    records: Records,
    rows: Sequence[Labelled],
    names: Sequence[str],
    source: str,
    request: Request,
) -> None:
    root = common_root(records)
    images, skipped = [], []
    for record, row in zip(records, rows):
        if row.boxes is None:
            skipped.append(f"{record['file_name']} ({row.problem})")
            continue
        path = os.path.relpath(os.path.abspath(record["file_name"]), root).replace(os.sep, "/")
        images.append(ScoredImage(path, row.size, row.boxes))
    if not images:
        raise UserError(f"None of the images can be labelled: {first_names(skipped, 2)}.")
    labels = LabelSet(root, list(names), images, source)
    more: Dict[str, Any] = {"url": request.url} if request.url else {}
    write_labels_for(request.tool, labels, request.output, **more)
    boxes = sum(len(image.boxes) for image in images)
    empty = sum(not image.boxes for image in images)
    print(f"{request.output}: {boxes} boxes on {len(images)} images, {empty} of them without any")
    if skipped:
        print(f"note: {len(skipped)} images are left out: {first_names(skipped, 5)}")
    writer = WRITERS[request.tool]
    if source:
        print(f"scores: {writer.scores}")
    print(f"next: {writer.use.format(request.output)}")
