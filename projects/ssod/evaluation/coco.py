"""COCO's box metrics, with compiled matching where `faster-coco-eval` is installed.

Names are Detectron2's (AP, AP50, AP75, APs, APm, APl, AP-<class>) plus AR, the average recall at 100 detections an image; in percent,
NaN where there is no ground truth to measure against.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import itertools
import json
import logging
import os
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

logger = logging.getLogger(__name__)

_METRICS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR": 8}


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's `COCOEvaluator`, whose box metrics come from `coco_eval_boxes`; other tasks are Detectron2's own.

    Subclasses that add metrics of their own override `derive_box_results`.
    """

    def __init__(self, dataset_name: str, output_dir: Optional[str] = None, **kwargs: Any) -> None:
        # Detectron2's own fast implementation needs its compiled part.
        super().__init__(dataset_name, output_dir=output_dir, **{"use_fast_impl": False, **kwargs})

    def _eval_predictions(
        self, predictions: List[Dict[str, Any]], img_ids: Optional[Sequence[Any]] = None
    ) -> None:
        found = list(itertools.chain(*[prediction["instances"] for prediction in predictions]))
        tasks = self._tasks or self._tasks_from_predictions(found)
        if set(tasks) != {"bbox"} or not self._do_evaluation:
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
        coco_eval = coco_eval_boxes(self._coco_api, found, self._max_dets_per_image, img_ids)
        self._results["bbox"] = self.derive_box_results(
            coco_eval, self._metadata.get("thing_classes")
        )

    def derive_box_results(
        self, coco_eval: Any, class_names: Optional[Sequence[str]]
    ) -> Dict[str, float]:
        """Metrics by name, from an accumulated and summarised `COCOeval`."""
        results = {name: _percent(coco_eval.stats[index]) for name, index in _METRICS.items()}
        if class_names is not None and len(class_names) > 1:
            for name, ap in zip(class_names, per_class_ap(coco_eval)):
                results[f"AP-{name}"] = ap
        return results

    def _dataset_category_ids(self) -> Dict[int, int]:
        """Contiguous class index -> the JSON file's category id; empty where they are the same."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        return {index: category for category, index in mapping.items()}


def coco_eval_boxes(
    truth: COCO,
    found: List[Dict[str, Any]],
    max_dets: Sequence[int] = (1, 10, 100),
    img_ids: Optional[Sequence[Any]] = None,
) -> Any:
    """Evaluates boxes; the same numbers to 1e-6 with either library.

    Args:
        truth: ground truth. found: rows in COCO's result format (image_id, category_id, bbox XYWH, score); may be empty.

    Returns:
        A `COCOeval`-like object with `stats` (12 or more, in COCO's order) and `eval["precision"]`
        of shape (IoU thresholds, recalls, classes, areas, max_dets).
    """
    numeric = all(isinstance(image_id, int) for image_id in truth.getImgIds())
    if numeric and importlib.util.find_spec("faster_coco_eval") is not None:
        evaluation = _faster(truth, found)
    else:
        evaluation = _official(truth, found)
    evaluation.params.maxDets = list(max_dets)
    if img_ids is not None:
        evaluation.params.imgIds = list(img_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def per_class_ap(coco_eval: Any) -> List[float]:
    """AP of each class in percent, in the order of category ids; NaN for a class without ground truth."""
    precision = np.asarray(coco_eval.eval["precision"])[:, :, :, 0, -1]
    values = []
    for index in range(precision.shape[2]):
        valid = precision[:, :, index][precision[:, :, index] > -1]
        values.append(float(valid.mean() * 100) if valid.size else float("nan"))
    return values


def _faster(truth: COCO, found: List[Dict[str, Any]]) -> Any:
    from faster_coco_eval import COCO as FastCOCO
    from faster_coco_eval import COCOeval_faster

    # It writes into the rows it is given.
    reference = FastCOCO(copy.deepcopy(truth.dataset))
    return COCOeval_faster(
        reference, reference.loadRes(copy.deepcopy(found)), "bbox", print_function=_silent
    )


def _official(truth: COCO, found: List[Dict[str, Any]]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        if found:
            return COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
        nothing = COCO()  # `loadRes` cannot take an empty list
        nothing.dataset = {**truth.dataset, "annotations": []}
        nothing.createIndex()
        return COCOeval(truth, nothing, "bbox")


def _silent(*_: Any) -> None:
    pass


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")
