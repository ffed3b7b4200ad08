"""Pictures of labels beside the truth, as data URIs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ssod.data.masks import decode_mask, is_rle
from ssod.data.pixels import read_pixels
from ssod.data.readings import register_datasets
from ssod.data.records import trained_annotations
from ssod.errors import UserError
from ssod.plotting.pictures import data_uri
from ssod.plotting.run_data import RunData
from ssod.utils.draw import draw_boxes

# Longest side of a picture in pixels; small images are enlarged by whole factors up to it.
SIZE = 480


@dataclass
class Boxes:
    """Boxes of one image: XYXY in pixels of the file, class indices, scores unless they are the
    truth, and run-length encoded masks where there are any.
    """

    boxes: List[List[float]]
    classes: List[int]
    scores: Optional[List[float]] = None
    masks: Optional[List[Dict[str, Any]]] = None


@dataclass
class GalleryImage:
    """One image with the labels of several sources, by the source's name; `truth` where it is
    known.
    """

    file_name: str
    class_names: List[str]
    labels: Dict[str, Boxes] = field(default_factory=dict)
    truth: Optional[Boxes] = None


def pseudo_label_images(runs: Sequence[RunData]) -> List[GalleryImage]:
    """The images of each run's latest quality file that are to be shown, in the first run's
    order.
    """
    found: Dict[str, GalleryImage] = {}
    for run in runs:
        if not run.quality:
            continue
        record = list(run.quality.values())[-1]
        for row in record.get("images", []):
            if not row.get("shown", True):
                continue
            name = row["file_name"]
            image = found.setdefault(name, GalleryImage(name, record.get("classes", [])))
            image.labels[run.name] = Boxes(
                row["boxes"], row["classes"], row["scores"], row.get("masks")
            )
            if "truth_boxes" in row:
                true = row["truth_boxes"], row["truth_classes"]
                image.truth = Boxes(*true, masks=row.get("truth_masks"))
    return list(found.values())


def detection_images(
    runs: Sequence[RunData], count: int = 8, min_score: float = 0.5
) -> Tuple[List[GalleryImage], List[str]]:
    """The teachers' detections on the test images (validation images until there are any).

    Args:
        count: images, evenly spaced over a dataset. min_score: of detections.

    Returns:
        The images, and a remark for each run whose dataset cannot be read here.
    """
    found: Dict[str, GalleryImage] = {}
    remarks = []
    for run, dataset, rows in _detections(runs):
        try:
            records, metadata = read_dataset(run, dataset)
        except (UserError, OSError, KeyError) as error:
            remarks.append(f"{run.name}: {dataset} is not at hand ({error}).")
            continue
        to_index = metadata.get("thing_dataset_id_to_contiguous_id", {})
        by_image: Dict[Any, List[Dict[str, Any]]] = {}
        for row in rows:
            if row["score"] >= min_score:
                by_image.setdefault(row["image_id"], []).append(row)
        for index in np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int):
            record = records[index]
            name = os.path.abspath(record["file_name"])
            names = list(metadata.get("thing_classes", []))
            image = found.setdefault(name, GalleryImage(name, names, truth=_truth(record)))
            own = by_image.get(record["image_id"], [])
            image.labels[run.name] = Boxes(
                [_corners(row["bbox"]) for row in own],
                [to_index.get(row["category_id"], row["category_id"]) for row in own],
                [row["score"] for row in own],
                [r["segmentation"] for r in own] if _all_masks(own) else None,
            )
    return list(found.values()), remarks


def _detections(runs: Sequence[RunData]) -> List[Tuple[RunData, str, List[Dict[str, Any]]]]:
    """(run, dataset, rows) of the runs that have detections: on a dataset that all of them have, if
    there is one.
    """
    found: List[Tuple[RunData, Dict[str, List[Dict[str, Any]]]]] = []
    for run in runs:
        rows = {}
        for name in [*run.get("DATASETS.TEST", []), *run.get("DATASETS.VAL", [])]:
            path = os.path.join(
                run.folder, "inference", "teacher", name, "coco_instances_results.json"
            )
            try:
                with open(path, encoding="utf-8") as file:
                    rows[name] = json.load(file)
            except (OSError, ValueError):  # not written yet, or being written now
                continue
        if rows:
            found.append((run, rows))
    chosen = []
    for run, rows in found:
        common = [name for name in rows if all(name in other for _, other in found)]
        name = (common or list(rows))[0]
        chosen.append((run, name, rows[name]))
    return chosen


def read_dataset(run: RunData, name: str) -> Tuple[List[Dict[str, Any]], Any]:
    """Records and metadata of a dataset that a run's config names."""
    # Only the declarations: a config that this version cannot load whole may still show its
    # pictures.
    masks = bool(run.get("MODEL.MASK_ON", False))
    declared = {"SSOD": {"DATASETS": run.get("SSOD.DATASETS", {})}, "MODEL": {"MASK_ON": masks}}
    register_datasets(CfgNode(declared))
    return DatasetCatalog.get(name), MetadataCatalog.get(name)


def _truth(record: Dict[str, Any]) -> Boxes:
    rows = trained_annotations(record)
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in rows]
    known = bool(rows) and all(is_rle(a.get("segmentation")) for a in rows)
    masks = [a["segmentation"] for a in rows] if known else None
    return Boxes([list(box) for box in boxes], [a["category_id"] for a in rows], masks=masks)


def _all_masks(rows: Sequence[Dict[str, Any]]) -> bool:
    return bool(rows) and all("segmentation" in row for row in rows)


def _corners(box: Sequence[float]) -> List[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def _decoded(rles: Sequence[Dict[str, Any]]) -> torch.Tensor:
    masks = [decode_mask(rle) for rle in rles]
    return torch.from_numpy(np.stack(masks) if masks else np.zeros((0, 1, 1), bool))


def picture(
    file_name: str, labels: Boxes, class_names: Sequence[str], size: int = SIZE
) -> Optional[str]:
    """A JPEG with boxes as a data URI; None where the file cannot be read.

    Args:
        size: its longer side in pixels, at most. A small image is enlarged by a whole factor.
    """
    try:
        image = read_pixels(file_name, "BGR")
    except Exception:  # Pillow's decoders may raise anything on a damaged file
        return None
    longest = max(image.shape[:2])
    factor = min(1.0, size / longest)
    if factor < 1.0:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    drawn = draw_boxes(
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        torch.tensor(labels.boxes, dtype=torch.float32).reshape(-1, 4) * factor,
        torch.tensor(labels.classes, dtype=torch.int64),
        list(class_names),
        None if labels.scores is None else torch.tensor(labels.scores),
        scale=max(1, int(0.84 * size) // longest),
        masks=None if labels.masks is None else _decoded(labels.masks),
    )
    encoded = cv2.imencode(".jpg", drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return data_uri(encoded.tobytes())
