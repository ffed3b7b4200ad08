"""LVIS's metrics through Detectron2's evaluator and the `lvis` package.

LVIS does not label every class in every image. In an image only the classes of its boxes and of
`neg_category_ids` are judged. Classes in `not_exhaustive_category_ids` cost no false positives. Up
to 300 detections an image count.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator
from detectron2.utils import comm

from ssod.errors import UserError
from ssod.evaluation.groups import group_means, read_groups
from ssod.evaluation.loader import Unreadable
from ssod.evaluation.truth import evaluation_truth

logger = logging.getLogger(__name__)

MAX_DETECTIONS = 300
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def require_lvis(dataset_name: str) -> None:
    """Raises `UserError` if the dataset needs the `lvis` package and it is not installed."""
    if MetadataCatalog.get(dataset_name).get("evaluator_type") != "lvis":
        return
    if importlib.util.find_spec("lvis") is None:
        raise UserError(
            f"{dataset_name} has FORMAT lvis, whose evaluation needs a package: pip install --no-deps lvis."
        )


class FederatedEvaluator(LVISEvaluator):
    """Detectron2's `LVISEvaluator`, with the metrics of the groups in the dataset's `groups_file`,
    if it has one.

    With such a file, APr, APc and APf are computed from the images of that labelled set instead of
    the "frequency" in LVIS's file.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: Optional[str] = None,
        *,
        tasks: Optional[Sequence[str]] = None,
        distributed: bool = True,
        max_dets_per_image: Optional[int] = None,
    ) -> None:
        """Does not call Detectron2's `__init__`, which would read the annotation file without the
        corrections that training makes.
        """
        require_lvis(dataset_name)
        self._logger = logger
        self._distributed, self._output_dir, self._tasks = distributed, output_dir, tasks
        self._max_dets_per_image = max_dets_per_image
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._lvis_api = _lvis_api(lvis_truth(dataset_name))
        self._do_evaluation = bool(self._lvis_api.anns)
        # Filled by this rank's loader: see `ReadableImages`. `left_out` has the ids of all ranks.
        self.unreadable: Unreadable = {}
        self.left_out: Set[Any] = set()

    def evaluate(self) -> Dict[str, Any]:
        """Detectron2's evaluation.

        Images that no rank could read are left out, with their boxes.
        """
        self.left_out = set(self.unreadable)
        if self._distributed:
            self.left_out.update(*comm.all_gather(list(self.unreadable)))
        return super().evaluate()

    def _eval_predictions(self, predictions: List[Dict[str, Any]]) -> None:
        found = list(itertools.chain(*[prediction["instances"] for prediction in predictions]))
        tasks = self._tasks or self._tasks_from_predictions(found)
        if found and not any("segmentation" in row for row in found):
            tasks = [task for task in tasks if task != "segm"]  # a model of boxes alone
        if set(tasks) - {"bbox", "segm"} or not self._do_evaluation:
            super()._eval_predictions(predictions)
            return
        mapping = self._metadata.thing_dataset_id_to_contiguous_id
        to_dataset = {index: category for category, index in mapping.items()}
        for row in found:
            row["category_id"] = to_dataset[row["category_id"]]
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            with open(os.path.join(self._output_dir, "lvis_instances_results.json"), "w") as file:
                json.dump(found, file)
        for task in sorted(tasks):
            self._results[task] = self._metrics(found, task)

    def _metrics(self, found: List[Dict[str, Any]], task: str) -> Dict[str, float]:
        classes = self._metadata.get("thing_classes") or ()
        file = self._metadata.get("groups_file")
        groups = read_groups(file, classes) if file else {}
        # All three have one definition. If the labelled set has no frequent class, there is no APf.
        names = [name for name in METRICS if not (groups and name in ("APr", "APc", "APf"))]
        if not found:
            logger.warning("The model detects nothing at all in this dataset: every AP is 0.")
            return dict.fromkeys([*names, *groups], 0.0)
        from lvis import LVISEval, LVISResults

        # Without this, every evaluation would warn that it got results instead of a file.
        logging.getLogger("lvis").setLevel(logging.ERROR)
        rows = found
        if task == "segm":  # the area of a box in the row would count as the mask's
            rows = [{k: v for k, v in row.items() if k != "bbox"} for row in found]
        evaluation = LVISEval(
            self._lvis_api, LVISResults(self._lvis_api, rows, MAX_DETECTIONS), task
        )
        kept = [i for i in evaluation.params.img_ids if i not in self.left_out]
        evaluation.params.img_ids = kept
        evaluation.run()
        values = evaluation.get_results()
        results = {name: _percent(values[name]) for name in names}
        return {**results, **group_means(_class_ap(evaluation.eval["precision"]), groups)}


def _class_ap(precision: np.ndarray) -> List[float]:
    """AP of each class in percent, from (IoU thresholds, recalls, classes, areas); NaN for a class
    without ground truth.
    """
    over_all = precision[:, :, :, 0]
    values = [over_all[:, :, k][over_all[:, :, k] > -1] for k in range(over_all.shape[2])]
    return [float(v.mean() * 100) if v.size else float("nan") for v in values]


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")


def lvis_truth(dataset_name: str) -> Dict[str, Any]:
    """`evaluation_truth` of a dataset that LVIS's rules apply to.

    Raises:
        UserError: its file lacks what LVIS's evaluation needs.
    """
    content = evaluation_truth(dataset_name)
    path = MetadataCatalog.get(dataset_name).get("json_file", dataset_name)
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if not all(isinstance(image.get(key), list) for image in content["images"]):
            raise UserError(
                f"{path} has images without {key}: use FORMAT coco, or LVIS's own file."
            )
    if not all(category.get("frequency") in ("r", "c", "f") for category in content["categories"]):
        raise UserError(
            f"{path} has categories without a frequency (r, c or f): use LVIS's own file."
        )
    return content


def _lvis_api(content: Dict[str, Any]) -> Any:
    """The `lvis` package's index of a dict. Its own constructor needs a file."""
    from lvis import LVIS

    api = LVIS.__new__(LVIS)
    api.logger = logging.getLogger("lvis")
    api.dataset = content
    api._create_index()
    return api
