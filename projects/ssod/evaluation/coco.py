"""COCO's metrics of boxes and masks, with compiled matching where `faster-coco-eval` is installed.

Names are Detectron2's (AP, AP50, AP75, APs, APm, APl, AP-<class>) plus AR, the average recall at
100 detections an image; in percent, NaN where there is no ground truth to measure against.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import logging
import os
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssod.data.coco_content import corners
from ssod.data.masks import read_mask
from ssod.evaluation.loader import Unreadable
from ssod.evaluation.truth import coco_api, evaluation_truth

logger = logging.getLogger(__name__)

_METRICS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR": 8}


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator`.

    Its metrics of boxes ("bbox") and masks ("segm") come from `evaluate_coco`. A model with other
    tasks gets Detectron2's own metrics.

    Subclasses that add metrics of their own override `derive_results`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: Optional[str] = None,
        *,
        tasks: Optional[Sequence[str]] = None,
        distributed: bool = True,
        max_dets_per_image: Optional[int] = None,
        kpt_oks_sigmas: Sequence[float] = (),
    ) -> None:
        """Does not call Detectron2's `__init__`, which would read the annotation file without the
        corrections that training makes.
        """
        self._logger = logger
        self._distributed, self._output_dir, self._tasks = distributed, output_dir, tasks
        self._use_fast_impl = False  # it needs Detectron2's compiled part
        self._max_dets_per_image = [1, 10, max_dets_per_image or 100]
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._coco_api = coco_api(evaluation_truth(dataset_name))
        self._do_evaluation = "annotations" in self._coco_api.dataset
        # Filled by this rank's loader: see `ReadableImages`. `left_out` has the ids of all ranks.
        self.unreadable: Unreadable = {}
        self.left_out: Set[Any] = set()

    def evaluate(self, img_ids: Optional[Sequence[Any]] = None) -> Dict[str, Any]:
        """Detectron2's evaluation. Images that no rank could read are left out, with their boxes.

        Args:
            img_ids: of the images to evaluate on; None for all.
        """
        self.left_out = set(self.unreadable)
        if self._distributed:
            self.left_out.update(*comm.all_gather(list(self.unreadable)))
        if self.left_out:
            known = self._coco_api.imgs if img_ids is None else img_ids
            img_ids = [image_id for image_id in known if image_id not in self.left_out]
        return super().evaluate(img_ids)

    def _eval_predictions(
        self, predictions: List[Dict[str, Any]], img_ids: Optional[Sequence[Any]] = None
    ) -> None:
        found = list(itertools.chain(*[prediction["instances"] for prediction in predictions]))
        tasks = self._tasks or self._tasks_from_predictions(found)
        if found and not any("segmentation" in row for row in found):
            tasks = [task for task in tasks if task != "segm"]  # a model of boxes alone
        if set(tasks) - {"bbox", "segm"} or not self._do_evaluation:
            super()._eval_predictions(predictions, img_ids)
            return
        to_dataset = self._dataset_category_ids()
        for row in found:
            row["category_id"] = to_dataset.get(row["category_id"], row["category_id"])
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            with open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                json.dump(found, file)
        if not found:
            logger.warning("The model detects nothing at all in this dataset: every AP is 0.")
        for task in sorted(tasks):
            evaluation = evaluate_coco(
                self._coco_api, found, self._max_dets_per_image, img_ids, task=task
            )
            classes = self._metadata.get("thing_classes")
            self._results[task] = self.derive_results(evaluation, classes)

    def derive_results(
        self, coco_eval: Any, class_names: Optional[Sequence[str]]
    ) -> Dict[str, float]:
        """Metrics of one task by name, from an accumulated and summarised `COCOeval`."""
        results = {name: _percent(coco_eval.stats[index]) for name, index in _METRICS.items()}
        if class_names is not None and len(class_names) > 1:
            for name, ap in zip(class_names, per_class_ap(coco_eval)):
                results[f"AP-{name}"] = ap
        return results

    def _dataset_category_ids(self) -> Dict[int, int]:
        """Contiguous class index -> the JSON file's category id. Empty if they are the same."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        return {index: category for category, index in mapping.items()}


def evaluate_coco(
    truth: COCO,
    found: List[Dict[str, Any]],
    max_dets: Sequence[int] = (1, 10, 100),
    img_ids: Optional[Sequence[Any]] = None,
    task: str = "bbox",
) -> Any:
    """Evaluates boxes or masks.

    The numbers are equal to 1e-6 with both libraries, and for any ids and any order of the truth.

    Args:
        truth: ground truth. found: rows in COCO's result format (image_id, category_id, bbox XYWH,
            score, "segmentation" as RLE for masks); may be empty.
        img_ids: of the images to evaluate on; None for all.
        task: "bbox" or "segm". A detection's size is that of its box or of its mask; a true
            object's is its "area" for both.

    Returns:
        A `COCOeval`-like object with `stats` (12 or more, in COCO's order) and `eval["precision"]`
        of shape (IoU thresholds, recalls, classes, areas, max_dets). Classes are in the order of
        their ids.
    """
    content, rows = _renumber(truth.dataset, found, img_ids, masks=task == "segm")
    if importlib.util.find_spec("faster_coco_eval") is not None:
        evaluation = _faster(content, rows, task)
    else:
        evaluation = _official(content, rows, task)
    evaluation.params.maxDets = list(max_dets)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _renumber(
    truth: Dict[str, Any],
    found: List[Dict[str, Any]],
    img_ids: Optional[Sequence[Any]],
    masks: bool,
) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    """Renumbers truth and results from 1, by names and boxes instead of the file's ids and order.

    COCO's matching reads the id 0 as "no match". Among equal scores the order of the images
    decides.
    """
    kept = None if img_ids is None else set(img_ids)
    listed = [image for image in truth["images"] if kept is None or image["id"] in kept]
    listed.sort(key=lambda image: str(image.get("file_name", image["id"])))
    images = {image["id"]: number + 1 for number, image in enumerate(listed)}
    ordered = sorted(category["id"] for category in truth["categories"])
    categories = {category: number + 1 for number, category in enumerate(ordered)}

    def moved(rows: List[Dict[str, Any]], keys: Tuple[str, ...]) -> List[Dict[str, Any]]:
        return [
            {
                **{key: row[key] for key in keys if key in row},
                "image_id": images[row["image_id"]],
                "category_id": categories[row["category_id"]],
            }
            for row in rows
            if row["image_id"] in images and row["category_id"] in categories
        ]

    more, sizes = (("segmentation",), ("height", "width")) if masks else ((), ())
    true = _with_masks(truth) if masks else truth["annotations"]
    annotations = moved(true, ("bbox", "area", "iscrowd", *more))
    annotations.sort(key=lambda row: (row["image_id"], row["category_id"], row["bbox"]))
    for number, row in enumerate(annotations):
        row["id"] = number + 1
    content = {
        "info": {},
        "images": [{"id": images[i["id"]], **{k: i.get(k, 0) for k in sizes}} for i in listed],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n)} for n in categories.values()],
    }
    # If the rows had boxes, both libraries would take a box's area for its mask's area.
    return content, moved(found, ("score", *(more or ("bbox",))))


def _with_masks(truth: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The annotations with an `Rle`; those without a usable mask are left out, as in training.

    The files of sets that others registered are read as they are.
    """
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in truth["images"]}
    rows = []
    for row in truth["annotations"]:
        crowd, size = bool(row.get("iscrowd")), sizes.get(row["image_id"], (None, None))
        box = corners(list(row["bbox"]))
        rle, _ = read_mask(row.get("segmentation"), box, *size, is_crowd=crowd)
        if rle is not None:
            rows.append({**row, "segmentation": rle})
    return rows


def per_class_ap(coco_eval: Any) -> List[float]:
    """AP of each class in percent, in the order of category ids; NaN for a class without ground
    truth.
    """
    precision = np.asarray(coco_eval.eval["precision"])[:, :, :, 0, -1]
    values = []
    for index in range(precision.shape[2]):
        valid = precision[:, :, index][precision[:, :, index] > -1]
        values.append(float(valid.mean() * 100) if valid.size else float("nan"))
    return values


def _faster(truth: Dict[str, Any], found: List[Dict[str, Any]], task: str) -> Any:
    from faster_coco_eval import COCO as FastCOCO
    from faster_coco_eval import COCOeval_faster

    reference = FastCOCO(truth)
    return COCOeval_faster(reference, reference.loadRes(found), task, print_function=_silent)


def _official(truth: Dict[str, Any], found: List[Dict[str, Any]], task: str) -> Any:
    reference = coco_api(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        if found:
            return COCOeval(reference, reference.loadRes(found), task)
        nothing = coco_api({**truth, "annotations": []})  # `loadRes` cannot take an empty list
        return COCOeval(reference, nothing, task)


def _silent(*_: Any) -> None:
    pass


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")
