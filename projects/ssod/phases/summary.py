"""Evaluates the models of all phases, alone and together (Table 5), and their labels (Fig. 2)."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from torch import Tensor

from ssod.data.catalog import load_unlabeled
from ssod.data.classes import check_classes
from ssod.data.readings import register_datasets
from ssod.data.records import trained_annotations
from ssod.data.truth import HiddenTruth, ImageTruth
from ssod.engine.trainer import SSODTrainer
from ssod.evaluation.build import quiet_evaluation
from ssod.evaluation.coco import evaluate_coco
from ssod.evaluation.pseudo_label_quality import LabelCounts, count_labels
from ssod.evaluation.truth import coco_api
from ssod.phases.difficulty import easy_images, quality_by_difficulty
from ssod.phases.plan import Phase
from ssod.pseudo_labels.certainty import most_certain
from ssod.pseudo_labels.ensemble import fuse_predictions, warn_of_masks
from ssod.pseudo_labels.labelling import agreed_labels, certainty_and_count, label_thresholds
from ssod.pseudo_labels.predictions import Prediction, PredictionStore, predict
from ssod.utils.atomic import write_atomically

logger = logging.getLogger(__name__)
SUBSETS = ("all", "easy", "difficult")
METRICS = ("AP", "AP50")
# The metric of sets that declare EVALUATOR, which is the paper's.
VOC_METRICS = ("VOC-AP50",)


def summarise_phases(cfg: CfgNode, config_file: str, phases: Sequence[Phase], cache: str) -> None:
    """Evaluates every model and the ensembles 1~N and 0~N on `DATASETS.TEST`. Call it on all ranks.

    Writes OUTPUT_DIR/phases.json (everything), summary.md and summary.csv (Table 5).
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.PSEUDO_LABELS = ""
    register_datasets(cfg)
    classes = check_classes(cfg)
    tta = cfg.SSOD.MULTI_PHASE.TEST_TIME_AUGMENTATION
    records = load_unlabeled(cfg)
    # The last model labels nothing.
    stores = [predict(cfg, phase.weights, records, cache, tta) for phase in phases[:-1]]
    limits = [label_thresholds(cfg, store, len(classes), None) for store in stores]
    tests = {}
    for name in cfg.DATASETS.TEST:
        tests[name] = _evaluate_all(cfg, name, phases, cache, limits[0], len(classes))
    if comm.is_main_process():
        labels = _label_quality(cfg, records, phases, stores, limits, classes)
        record = {"phases": len(phases) - 1, "test": tests, "labels": labels}
        _write(os.path.join(cfg.OUTPUT_DIR, "phases.json"), json.dumps(record, indent=1))
        _write(os.path.join(cfg.OUTPUT_DIR, "summary.csv"), format_csv(tests, config_file))
        text = format_markdown(tests)
        _write(os.path.join(cfg.OUTPUT_DIR, "summary.md"), text)
        logger.info(f"Results, also in {cfg.OUTPUT_DIR}/summary.md:\n{text}")
    comm.synchronize()


def _write(path: str, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def _evaluate_all(
    cfg: CfgNode,
    name: str,
    phases: Sequence[Phase],
    cache: str,
    limits: Tensor,
    num_classes: int,
) -> Dict[str, Any]:
    """{"easy_share": ..., "rows": {"0": {"all": {"AP": ...}, ...}, ..., "1~2": ..., "0~2": ...}} of
    one test set.
    """
    with quiet_evaluation():
        records = DatasetCatalog.get(name)
    stores = [predict(cfg, phase.weights, records, cache) for phase in phases]
    # Difficulty follows from the supervised model's labels of the test images, with the thresholds
    # of the unlabelled images.
    labels = agreed_labels(stores[:1], [limits], 0.5)
    counts = [_count(row, _truth(record), num_classes) for row, record in zip(labels, records)]
    easy = easy_images(counts)
    last = len(phases) - 1
    warn_of_masks(cfg)
    groups = {str(phase.index): [phase.index] for phase in phases}
    if last > 1:
        groups[f"1~{last}"] = list(range(1, last + 1))
    groups[f"0~{last}"] = list(range(last + 1))
    rows = {}
    for label, members in groups.items():
        found = _fused([stores[i] for i in members], cfg.SSOD.MULTI_PHASE.FUSION_IOU)
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", name, label)
        rows[label] = _evaluate(cfg, name, records, list(found), easy, folder)
    return {"easy_share": float(easy.double().mean()), "rows": rows}


def _fused(stores: Sequence[PredictionStore], iou: float) -> Iterator[Optional[Instances]]:
    """The fused predictions of this rank's share of the images. None for other ranks' images and
    unreadable ones. The predictions of a single model are not changed.
    """
    for index, rows in enumerate(zip(*stores)):
        own = index % comm.get_world_size() == comm.get_rank()
        found = [row.found for row in rows if row.found is not None]
        if not own or len(found) < len(rows):
            yield None
        else:
            yield found[0] if len(found) == 1 else fuse_predictions(found, iou)


def _evaluate(
    cfg: CfgNode,
    name: str,
    records: Sequence[Dict[str, Any]],
    found: Sequence[Optional[Instances]],
    easy: Tensor,
    folder: str,
) -> Dict[str, Dict[str, float]]:
    """Metrics on all, easy and difficult images. Easy and difficult images are only measured with
    COCO's evaluator, which accepts lists of images.
    """
    results: Dict[str, Dict[str, float]] = {}
    for subset in SUBSETS:
        with quiet_evaluation():
            evaluator = SSODTrainer.build_evaluator(cfg, name, os.path.join(folder, subset))
        wanted = [subset == "all" or bool(e) == (subset == "easy") for e in easy]
        if not any(wanted) or (subset != "all" and not isinstance(evaluator, COCOEvaluator)):
            continue
        evaluator.reset()
        for record, instances, inside in zip(records, found, wanted):
            if inside and instances is not None:
                evaluator.process([record], [{"instances": instances}])
        with quiet_evaluation():
            if subset == "all":
                values = evaluator.evaluate()
            else:
                ids = [record["image_id"] for record, inside in zip(records, wanted) if inside]
                values = evaluator.evaluate(img_ids=ids)
        results[subset] = dict((values or {}).get("bbox", {}))
    return results


def _truth(record: Mapping[str, Any]) -> ImageTruth:
    rows = trained_annotations(record)
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in rows]
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return ImageTruth(table, torch.tensor([a["category_id"] for a in rows], dtype=torch.int64))


def _count(row: Prediction, truth: ImageTruth, num_classes: int) -> LabelCounts:
    found = row.found if row.found is not None else _nothing()
    own = (found.pred_boxes.tensor, found.pred_classes, found.scores)
    return count_labels(*own, *truth, num_classes)


def _nothing() -> Instances:
    empty = Instances((1, 1))
    empty.pred_boxes, empty.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    empty.pred_classes = torch.zeros(0, dtype=torch.int64)
    return empty


def _label_quality(
    cfg: CfgNode,
    records: Sequence[Dict[str, Any]],
    phases: Sequence[Phase],
    stores: Sequence[PredictionStore],
    limits: Sequence[Tensor],
    classes: Sequence[str],
) -> List[Dict[str, Any]]:
    """Certainty histograms of each phase's labels and, if there is a truth, their precision and
    recall.

    Easy images are those of the first phase's labels, in all phases, so that phases are compared on
    the same images.
    """
    truth = HiddenTruth(cfg.DATASETS.UNLABELED, classes)
    known = [truth(record) for record in records]
    result: List[Dict[str, Any]] = []
    easy: Optional[Tensor] = None
    for phase in phases[1:]:
        iou = cfg.SSOD.MULTI_PHASE.INTERSECTION_IOU
        own_stores, own_limits = stores[: phase.index], limits[: phase.index]
        certainty, numbers = certainty_and_count(agreed_labels(own_stores, own_limits, iou))
        # Only rows with a truth are held in memory.
        found = zip(agreed_labels(own_stores, own_limits, iou), known)
        pairs = [(row, own) for row, own in found if own is not None]
        counts = [_count(row, own, len(classes)) for row, own in pairs]
        kept = most_certain(certainty, phase.fraction) & (numbers > 0)
        entry: Dict[str, Any] = {"phase": phase.index, "images": int(kept.sum())}
        for name, mask in (("certainty_all", certainty >= 0), ("certainty_kept", kept)):
            entry[name] = torch.histc(certainty[mask], bins=20, min=0.0, max=1.0).int().tolist()
        if counts:
            own = easy_images(counts)
            easy = own if easy is None else easy
            entry["easy_share"] = float(own.double().mean())
            entry["ap"] = labels_ap(pairs, len(classes))
            entry["quality"] = quality_by_difficulty(counts, easy)
            inside = torch.tensor([k for k, t in zip(kept.tolist(), known) if t is not None])
            entry["easy_share_kept"] = float(own[inside].double().mean())
        result.append(entry)
    return result


def labels_ap(pairs: Sequence[Tuple[Prediction, ImageTruth]], num_classes: int) -> Dict[str, float]:
    """COCO's AP and AP50 of the pseudo-labels themselves, as detections of their images (Fig. 2a).

    Args:
        pairs: each image's labels and truth.
    """
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    found: List[Dict[str, Any]] = []
    for index, (row, own) in enumerate(pairs):
        images.append({"id": index, "file_name": f"{index:09d}"})
        for box, label in zip(_xywh(own.boxes), own.classes.tolist()):
            annotation = {"image_id": index, "category_id": label, "bbox": box, "iscrowd": 0}
            number = len(annotations) + 1
            annotations.append({**annotation, "id": number, "area": box[2] * box[3]})
        labels = row.found if row.found is not None else _nothing()
        for box, label, score in zip(
            _xywh(labels.pred_boxes.tensor), labels.pred_classes.tolist(), labels.scores.tolist()
        ):
            found.append({"image_id": index, "category_id": label, "bbox": box, "score": score})
    categories = [{"id": k, "name": str(k)} for k in range(num_classes)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    stats = evaluate_coco(coco_api(content), found).stats
    return {name: 100 * float(stats[place]) for name, place in (("AP", 0), ("AP50", 1))}


def _xywh(boxes: Tensor) -> List[List[float]]:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def _row_name(label: str) -> str:
    if label == "0":
        return "0 (supervised)"
    return f"{label} (ensemble)" if "~" in label else label


def format_markdown(tests: Mapping[str, Mapping[str, Any]]) -> str:
    """One table per test set, in the form of Table 5. Each row is a model or ensemble, with AP and
    AP50 on all, easy and difficult images.
    """
    parts = []
    for name, test in tests.items():
        known = [subsets.get("all", {}) for subsets in test["rows"].values()]
        metrics = [*METRICS, *(m for m in VOC_METRICS if any(m in row for row in known))]
        headers = [f"{metric} {subset}" for subset in SUBSETS for metric in metrics]
        parts.append(f"{name}, {test['easy_share']:.0%} of the images easy\n")
        parts.append("| phase | " + " | ".join(headers) + " |")
        parts.append("|---" * (len(headers) + 1) + "|")
        for label, subsets in test["rows"].items():
            cells = [_cell(subsets.get(s, {}).get(m)) for s in SUBSETS for m in metrics]
            parts.append(f"| {_row_name(label)} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _cell(value: Optional[float]) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1f}"


def format_csv(tests: Mapping[str, Mapping[str, Any]], config_file: str) -> str:
    """All metrics, one per line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["config", "dataset", "phase", "images", "metric", "value"])
    for name, test in tests.items():
        for label, subsets in test["rows"].items():
            for subset, metrics in subsets.items():
                for metric, value in metrics.items():
                    writer.writerow([config_file, name, label, subset, metric, value])
    return text.getvalue()
