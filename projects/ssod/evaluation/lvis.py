"""LVIS's box metrics through Detectron2's evaluator and the `lvis` package.

LVIS is labelled federatedly: in an image only the classes of its boxes and of `neg_category_ids` are judged, and those of
`not_exhaustive_category_ids` cost no false positives. Up to 300 detections an image count.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import logging
import os
from typing import Any, Dict, List, Optional

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator

from ssod.data.coco import read_coco
from ssod.errors import UserError
from ssod.evaluation.groups import group_means, read_groups

logger = logging.getLogger(__name__)

MAX_DETECTIONS = 300
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def require_lvis(dataset_name: str) -> None:
    """Raises `UserError` if the dataset needs the `lvis` package, which is not there."""
    if MetadataCatalog.get(dataset_name).get("evaluator_type") != "lvis":
        return
    if importlib.util.find_spec("lvis") is None:
        raise UserError(
            f"{dataset_name} has FORMAT lvis, whose evaluation needs a package: pip install --no-deps lvis."
        )


class FederatedEvaluator(LVISEvaluator):
    """Detectron2's `LVISEvaluator`, whose box metrics add those of the groups of the dataset's `groups_file`, if it has one.

    APr, APc and APf follow the file's "frequency" then no longer, but the images of that labelled set.
    """

    def __init__(self, dataset_name: str, output_dir: Optional[str] = None, **kwargs: Any) -> None:
        require_lvis(dataset_name)
        check_lvis_file(MetadataCatalog.get(dataset_name).json_file)
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(dataset_name, output_dir=output_dir, **kwargs)

    def _eval_predictions(self, predictions: List[Dict[str, Any]]) -> None:
        found = list(itertools.chain(*[prediction["instances"] for prediction in predictions]))
        tasks = self._tasks or self._tasks_from_predictions(found)
        if set(tasks) != {"bbox"} or not self._do_evaluation:
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
        self._results["bbox"] = self._box_results(found)

    def _box_results(self, found: List[Dict[str, Any]]) -> Dict[str, float]:
        classes = self._metadata.get("thing_classes") or ()
        file = self._metadata.get("groups_file")
        groups = read_groups(file, classes) if file else {}
        # One definition for all three: where the labelled set has no frequent class, there is no APf.
        names = [name for name in METRICS if not (groups and name in ("APr", "APc", "APf"))]
        if not found:
            logger.warning("The model detects nothing at all in this dataset: every AP is 0.")
            return dict.fromkeys([*names, *groups], 0.0)
        from lvis import LVISEval, LVISResults

        # It warns at every evaluation that it was given results, not a file.
        logging.getLogger("lvis").setLevel(logging.ERROR)
        evaluation = LVISEval(
            self._lvis_api, LVISResults(self._lvis_api, found, MAX_DETECTIONS), "bbox"
        )
        evaluation.run()
        values = evaluation.get_results()
        results = {name: _percent(values[name]) for name in names}
        return {**results, **group_means(_class_ap(evaluation.eval["precision"]), groups)}


def _class_ap(precision: np.ndarray) -> List[float]:
    """AP of each class in percent, from (IoU thresholds, recalls, classes, areas); NaN for a class without ground truth."""
    over_all = precision[:, :, :, 0]
    values = [over_all[:, :, k][over_all[:, :, k] > -1] for k in range(over_all.shape[2])]
    return [float(v.mean() * 100) if v.size else float("nan") for v in values]


def _percent(value: float) -> float:
    return float(value * 100) if value >= 0 else float("nan")


def check_lvis_file(path: str) -> None:
    """Raises `UserError` if a COCO-format file lacks what LVIS's evaluation needs."""
    content = read_coco(path, ("images", "annotations", "categories"))
    needed = {"neg_category_ids", "not_exhaustive_category_ids"}
    missing = next(
        (needed - image.keys() for image in content["images"] if needed - image.keys()), None
    )
    if missing:
        raise UserError(
            f"{path} has images without {sorted(missing)[0]}: use FORMAT coco, or LVIS's own file."
        )
    if not all(category.get("frequency") in ("r", "c", "f") for category in content["categories"]):
        raise UserError(
            f"{path} has categories without a frequency (r, c or f): use LVIS's own file."
        )
