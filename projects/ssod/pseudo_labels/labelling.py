"""Writes a file of pseudo-labels from the predictions of one or several detectors.

Shapes: K classes, M labels of one image; boxes are XYXY in absolute pixels of the image file. Only
    one shard of each detector's predictions is in memory at a time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from typing import IO, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor

from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.data.masks import as_json, mask_area
from ssod.data.truth import HiddenTruth
from ssod.errors import UserError
from ssod.evaluation.label_reliability import (
    Reliability,
    format_classes,
    format_reliability,
    measure_reliability,
)
from ssod.pseudo_labels.certainty import image_certainty, most_certain
from ssod.pseudo_labels.ensemble import check_fusion, fuse_predictions
from ssod.pseudo_labels.intersection import intersect_pseudo_labels
from ssod.pseudo_labels.predictions import Prediction, predict
from ssod.pseudo_labels.thresholds import ScoreHistogram, matched_thresholds
from ssod.utils.atomic import write_atomically
from ssod.utils.progress import progress
from ssod.utils.share import Share

logger = logging.getLogger(__name__)


def label_images(
    cfg: CfgNode,
    weights: Sequence[str],
    output: str,
    cache: str,
    *,
    threshold: Optional[float] = None,
    tta: bool = False,
    combine: str = "agreed",
    fraction: float = 1.0,
    share: Share = Share(),
    keep_empty: bool = True,
) -> None:
    """Labels `DATASETS.UNLABELED` with detectors and writes a COCO-format JSON with scores.

    Called on all ranks.

    Args:
        weights: of the detectors, oldest first. output: the file. cache: see `predict`.
        threshold: the lowest score, for all classes. None: one threshold for each detector and
            class, which keeps as many labels of the class per image as the labelled set has. Fused
            detections have one threshold a class for all detectors.
        combine: of several detectors: "agreed", the labels that all agree on
            (`intersect_pseudo_labels`), or "fused", all detections fused (`fuse_predictions`).
        fraction: only the most certain images (Eq. 1), this share of them, go into the file.
        share: the part of the images that this job predicts. Only a job with all of them writes a
            file.
        keep_empty: images without labels go into the file too, as images without objects. Otherwise
            they are left out, because the models may have missed an object.

    Raises:
        UserError: no label would be left.
    """
    if combine == "fused":
        check_fusion()
        if cfg.MODEL.MASK_ON and len(weights) > 1:
            raise UserError(
                "--combine fused merges boxes and makes no masks: use --combine agreed, or set MODEL.MASK_ON to False."
            )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.PSEUDO_LABELS = ""  # this makes the file that another run trains on
    records = load_unlabeled(cfg)
    if not records:
        raise UserError("DATASETS.UNLABELED is empty: name at least one dataset to label.")
    classes = check_classes(cfg)
    stores: List[Iterable[Prediction]] = [
        predict(cfg, path, records, cache, tta, share) for path in weights
    ]
    if not share.whole:
        return
    if comm.is_main_process():
        iou = cfg.SSOD.MULTI_PHASE.INTERSECTION_IOU
        if combine == "fused" and len(stores) > 1:
            stores = [FusedPredictions(stores, cfg.SSOD.MULTI_PHASE.FUSION_IOU)]
        number = len(records)
        limits = [
            label_thresholds(cfg, _shown(store, "thresholds", number), len(classes), threshold)
            for store in stores
        ]
        # Two passes, one to rank the images and one to write; neither holds all labels in memory.
        rows = _shown(agreed_labels(stores, limits, iou), "ranking", number)
        certainty, labels = certainty_and_count(rows)
        kept = most_certain(certainty, fraction)
        if not keep_empty:
            kept &= labels > 0
            if not kept.any():
                raise UserError(
                    f"No unlabelled image has a label that all {len(weights)} models agree on: train them longer, or lower "
                    "SSOD.MULTI_PHASE.INTERSECTION_IOU."
                )
        info: Dict[str, Any] = {
            "description": "Pseudo-labels",
            "image_root": image_root(records),
            "models": list(weights),
            "test_time_augmentation": tta,
            "combine": combine,
            "thresholds": [_by_name(classes, limit) for limit in limits],
            "fraction": fraction,
        }
        rows = _shown(agreed_labels(stores, limits, iou), "writing", number)
        write_labels(output, records, rows, kept, classes, info)
        _report_reliability(cfg, records, stores[-1], classes)
    comm.synchronize()


def _shown(rows: Iterable[Prediction], title: str, number: int) -> Iterator[Prediction]:
    """The rows of so many images, with a progress bar."""
    yield from progress(rows, title, total=number)


def _report_reliability(
    cfg: CfgNode,
    records: Sequence[Dict[str, Any]],
    store: Iterable[Prediction],
    classes: Sequence[str],
) -> None:
    """If TRUTH is declared, prints how often detections of each score and of each class are right,
    before thresholds.
    """
    truth = HiddenTruth(cfg.DATASETS.UNLABELED, classes)
    total: Optional[Reliability] = None
    for record, row in zip(records, store):
        own = truth(record)
        if own is None or row.found is None:
            continue
        found = row.found
        one = measure_reliability(
            found.pred_boxes.tensor, found.pred_classes, found.scores, own.boxes, own.classes
        )
        total = one if total is None else total.plus(one)
    if total is not None:
        logger.info(
            "Detections before thresholds, against TRUTH (of several models: the fused ones, or the newest model's):\n"
            + format_reliability(total)
            + "\n\n"
            + format_classes(total, classes)
        )


class FusedPredictions:
    """Several detectors' predictions of the same images, fused anew in every pass over them.

    Args:
        stores: one a detector. iou_threshold: see `fuse_predictions`.
    """

    def __init__(self, stores: Sequence[Iterable[Prediction]], iou_threshold: float) -> None:
        self.stores, self.iou_threshold = stores, iou_threshold

    def __iter__(self) -> Iterator[Prediction]:
        for rows in zip(*self.stores):
            found = [row.found for row in rows if row.found is not None]
            if len(found) < len(rows):
                yield next(row for row in rows if row.found is None)
            else:
                yield Prediction(fuse_predictions(found, self.iou_threshold))


def agreed_labels(
    stores: Sequence[Iterable[Prediction]], thresholds: Sequence[Tensor], iou_threshold: float
) -> Iterator[Prediction]:
    """The labels of each image in order, on which all detectors agree.

    Args:
        thresholds: (K,) a detector; a prediction counts with `score >= threshold` of its class.
    """
    for rows in zip(*stores):
        found: List[Instances] = []
        for row, limit in zip(rows, thresholds):
            if row.found is not None:
                found.append(row.found[row.found.scores >= limit[row.found.pred_classes]])
        broken = next((row for row in rows if row.found is None), None)
        yield (
            broken
            if broken is not None
            else Prediction(intersect_pseudo_labels(found, iou_threshold))
        )


def certainty_and_count(rows: Iterable[Prediction]) -> Tuple[Tensor, Tensor]:
    """(N,) certainty of each image, -1 if it cannot be read, and (N,) number of its labels."""
    certainty, counts = [], []
    for row in rows:
        certainty.append(-1.0 if row.found is None else image_certainty(row.found.scores))
        counts.append(0 if row.found is None else len(row.found))
    return torch.tensor(certainty), torch.tensor(counts, dtype=torch.int64)


def label_thresholds(
    cfg: CfgNode, store: Iterable[Prediction], num_classes: int, threshold: Optional[float]
) -> Tensor:
    """(K,) float64: `threshold` for all classes.

    If it is None, thresholds are matched to the labelled set (`matched_thresholds`).
    """
    if threshold is not None:
        return torch.full((num_classes,), threshold, dtype=torch.float64)
    histogram, images = ScoreHistogram(num_classes), 0
    for row in store:
        if row.found is not None:
            histogram.add(row.found.pred_classes, row.found.scores)
            images += 1
    labeled = load_labeled(cfg)
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for record in labeled:
        for annotation in record["annotations"]:
            counts[annotation["category_id"]] += not annotation.get("iscrowd", 0)
    return matched_thresholds(histogram.counts, counts / len(labeled) * images)


def write_labels(
    path: str,
    records: Sequence[Dict[str, Any]],
    labels: Iterator[Prediction],
    kept: Tensor,
    class_names: Sequence[str],
    info: Dict[str, Any],
) -> None:
    """Writes the file image by image. It appears only when it is complete.

    Args:
        labels: one entry a record. kept: (N,) bool, the images that go into the file. info: goes
            into the file, with the images that could not be read.
    """
    ids = _image_ids(records)
    skipped: List[Tuple[str, str]] = []
    total = without_pixel = 0

    def write(file: IO[bytes]) -> None:
        nonlocal total, without_pixel
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(class_names)]
        file.write(b'{"categories": ' + json.dumps(categories).encode() + b',\n"images": [')
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as annotations:
            first = b"\n"
            for index, row in enumerate(labels):
                if row.found is None:
                    skipped.append((records[index]["file_name"], row.problem))
                    continue
                if not kept[index]:
                    continue
                height, width = row.found.image_size
                name = os.path.relpath(records[index]["file_name"], info["image_root"])
                image = {"id": ids[index], "file_name": name, "height": height, "width": width}
                image["certainty"] = round(image_certainty(row.found.scores), 6)
                file.write(first + json.dumps(image).encode())
                first = b",\n"
                for annotation in _annotations(row.found, ids[index]):
                    if "segmentation" in annotation and not annotation["area"]:
                        without_pixel += 1
                        continue
                    total += 1
                    annotation["id"] = total
                    separator = b"\n" if total == 1 else b",\n"
                    annotations.write(separator + json.dumps(annotation).encode())
            file.write(b'],\n"annotations": [')
            annotations.seek(0)
            shutil.copyfileobj(annotations, file)
        rest = json.dumps({**info, "skipped": skipped}, allow_nan=False)
        file.write(b'],\n"info": ' + rest.encode() + b"}\n")

    write_atomically(path, write)
    logger.info(f"{path}: {total} labels of {int(kept.sum())} images.")
    if without_pixel:
        logger.info(f"{without_pixel} labels whose mask has no pixel are left out.")
    if not total:
        logger.warning(
            f"{path} has no label at all, so it teaches only background: train the models longer, or lower --thresholds."
        )
    if skipped:
        name, reason = skipped[0]
        logger.warning(
            f"{len(skipped)} images could not be read and are not in {path}, such as {name} ({reason}); its "
            '"info" lists them.'
        )


def _annotations(found: Instances, image_id: Any) -> Iterator[Dict[str, Any]]:
    boxes = found.pred_boxes.tensor.tolist()
    masks = found.pred_masks.rles if found.has("pred_masks") else [None] * len(boxes)
    for (x0, y0, x1, y1), score, label, rle in zip(
        boxes, found.scores.tolist(), found.pred_classes.tolist(), masks
    ):
        width, height = round(x1 - x0, 3), round(y1 - y0, 3)
        row = {
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [round(x0, 3), round(y0, 3), width, height],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "score": round(score, 6),
        }
        if rle is not None:
            row.update(segmentation=as_json(rle), area=mask_area(rle))
        yield row


def _image_ids(records: Sequence[Dict[str, Any]]) -> Sequence[Any]:
    """The records' own ids if they are numbers and no two are equal, else 1, 2, ..."""
    own = [record.get("image_id") for record in records]
    if all(isinstance(value, int) for value in own) and len(set(own)) == len(own):
        return own
    return range(1, len(own) + 1)


def image_root(records: Sequence[Dict[str, Any]]) -> str:
    """The folder that file names in the output are relative to."""
    names = {record["dataset_name"] for record in records}
    root = MetadataCatalog.get(next(iter(names))).get("image_root") if len(names) == 1 else None
    folders = {os.path.dirname(os.path.abspath(record["file_name"])) for record in records}
    return root or os.path.commonpath(sorted(folders))


def _by_name(class_names: Sequence[str], thresholds: Tensor) -> Dict[str, Optional[float]]:
    """For JSON, which has no infinity: None stands for a class of which nothing is kept."""
    values = [value if value <= 1 else None for value in thresholds.tolist()]
    return dict(zip(class_names, values))
