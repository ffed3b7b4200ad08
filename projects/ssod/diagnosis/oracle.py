"""A method that replaces pseudo-labels by the truth.

It is for diagnosis alone. A run with it is not semi-supervised.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Dict, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from ssod.data.truth import HiddenTruth, ImageTruth
from ssod.diagnosis.substitution import SUBSTITUTIONS, TRUTH_COLUMN, substitute
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext, TrainingData
from ssod.structures import PseudoLabels, Sample, Views

_TRUE_BOXES_REGRESS = ("rpn_reg_weight", "roi_reg_weight")


class OracleLabels(Method):
    """Reads the hidden labels of the unlabelled images and repairs the selected pseudo-labels with
    them.

    It must be the last of `SSOD.METHODS`: it repairs what the others have selected. True boxes
    always regress, as human labels do, even if the teacher's boxes do not.

    Args:
        substitution: one of `SUBSTITUTIONS`, see `substitute`. datasets: the unlabelled sets.
    """

    config_key = "ORACLE_LABELS"
    selects_pseudo_labels = True
    adds_labels = True

    def __init__(self, *, substitution: str, datasets: Tuple[str, ...], stored: bool) -> None:
        super().__init__()
        if substitution not in SUBSTITUTIONS:
            raise UserError(
                f"SSOD.ORACLE_LABELS.SUBSTITUTION is {substitution!r}: use one of {', '.join(SUBSTITUTIONS)}."
            )
        if stored and substitution != "true_labels":
            raise UserError(
                "SSOD.PSEUDO_LABELS is set: the oracle repairs an online teacher's labels."
            )
        self.substitution = substitution
        self.datasets = datasets
        self._truth: Dict[str, ImageTruth] = {}

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.ORACLE_LABELS = CfgNode()
        cfg.SSOD.ORACLE_LABELS.SUBSTITUTION = "true_labels"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            "substitution": cfg.SSOD.ORACLE_LABELS.SUBSTITUTION,
            "datasets": tuple(cfg.DATASETS.UNLABELED),
            "stored": bool(cfg.SSOD.PSEUDO_LABELS),
        }

    def setup(self, data: TrainingData) -> None:
        hidden = HiddenTruth(self.datasets, list(data.class_names))
        hidden.check(data.unlabeled)
        for record in data.unlabeled:
            found = hidden(record)
            if found is not None:
                self._truth[os.path.abspath(record["file_name"])] = found
        missing = len({os.path.abspath(r["file_name"]) for r in data.unlabeled}) - len(self._truth)
        if missing:
            raise UserError(
                f"{missing} of {len(data.unlabeled)} unlabelled images have no TRUTH: declare the labels of every "
                "unlabelled set in SSOD.DATASETS.<name>.TRUTH."
            )

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        rows = [
            substitute(row, self._truth_in_view(sample, row), self.substitution)
            for row, sample in zip(pseudo.instances, context.batch.unlabeled)
        ]
        return PseudoLabels(rows)

    def _truth_in_view(self, sample: Sample, row: Instances) -> ImageTruth:
        boxes, classes = self._truth[os.path.abspath(sample.file_name)]
        moved = sample.geometry.boxes_to_view(boxes, row.image_size)
        # The weak view may be a crop that shows nothing of an object.
        inside = ((moved[:, 2:] - moved[:, :2]) > 1e-2).all(dim=1)
        return ImageTruth(moved[inside], classes[inside])

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        unlabeled = views.unlabeled
        if unlabeled is None or unlabeled.pseudo is None:
            return views
        columns = []
        for row in unlabeled.pseudo.instances:
            true = row.get(TRUTH_COLUMN) > 0
            columns.append(
                {name: torch.where(true, 1.0, row.get(name)) for name in _TRUE_BOXES_REGRESS}
            )
        changed = unlabeled.pseudo.with_columns(columns)
        return replace(views, unlabeled=replace(unlabeled, pseudo=changed))


def register_oracle() -> None:
    """Makes `OracleLabels` a name that `SSOD.METHODS` knows, in this process.

    Calling it again changes nothing.
    """
    if OracleLabels.__name__ not in METHOD_REGISTRY:
        METHOD_REGISTRY.register(OracleLabels)
