"""Detections and features of the candidates, by the teacher and by the student if there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ssod.data.records import trained_classes
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.errors import UserError
from ssod.pseudo_labels.predictions import Prediction, PredictionStore, predict
from ssod.pseudo_labels.thresholds import ScoreHistogram, matched_thresholds
from ssod.utils.run_folder import weights_of

_LAST = "model_final.pth"


def weights_or_run(cfg: CfgNode, weights: Optional[str]) -> str:
    """The weights that a user names, else the config's own run.

    Raises:
        UserError: there is no such run.
    """
    if not weights and not os.path.isdir(cfg.OUTPUT_DIR):
        raise UserError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} does not exist: train with this config first, or name --weights."
        )
    return weights or cfg.OUTPUT_DIR


def committee(weights: str) -> Tuple[str, Optional[str]]:
    """The file of the teacher, and the file that holds a student too; None where there is none.

    Args:
        weights: a weights file, a full checkpoint with both, or the OUTPUT_DIR of a finished run,
            whose student is that of model_final.pth.
    """
    teacher = weights_of(weights)
    file = os.path.join(weights, _LAST) if os.path.isdir(weights) else weights
    if not os.path.isfile(file) or not file.endswith(".pth"):
        return teacher, None
    holds_both = "teacher" in SSODCheckpointer(nn.Identity()).load_file(file)
    return teacher, file if holds_both else None


@dataclass
class Detections:
    """The stored detections of some images, in their order; one shard is in memory at a time."""

    teacher: PredictionStore
    student: Optional[PredictionStore] = None

    def rows(self) -> Iterator[Tuple[Prediction, Optional[Prediction]]]:
        if self.student is None:
            yield from ((row, None) for row in self.teacher)
        else:
            yield from zip(self.teacher, self.student)

    def some(self, indices: Sequence[int]) -> List[Prediction]:
        """The teacher's detections on a few of the images."""
        found: Dict[int, Prediction] = {}
        wanted = set(indices)
        for shard in range(self.teacher.num_shards):
            inside = wanted.intersection(self.teacher.indices(shard))
            if inside:
                rows = dict(zip(self.teacher.indices(shard), self.teacher.read(shard)))
                found.update({index: rows[index] for index in inside})
        return [found[index] for index in indices]


def detect(
    cfg: CfgNode,
    weights: str,
    records: Sequence[Dict[str, Any]],
    cache: str,
    *,
    features: bool = False,
    student: bool = False,
) -> Detections:
    """Detects on the images, or goes on where a killed command stopped; called on all ranks.

    Args:
        cache: folder of the detections. features: keeps the images' vectors too.
        student: asks the student too, where the weights hold one.
    """
    teacher_file, student_file = committee(weights)
    teacher = predict(cfg, teacher_file, records, cache, features=features)
    if not student or student_file is None:
        return Detections(teacher)
    return Detections(teacher, predict(cfg, student_file, records, cache, role="student"))


def box_counts(labelled: Sequence[Dict[str, Any]], num_classes: int) -> Tensor:
    """(K,) int64: the boxes of each class in the labelled set."""
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for record in labelled:
        for label in trained_classes(record):
            counts[label] += 1
    return counts


def thresholds(store: PredictionStore, counts: Tensor, labelled: int) -> Tensor:
    """(K,) float64: with them an image has as many boxes of a class as a labelled one, on average.

    Classes of which less than one box is expected share a threshold, which is matched to the boxes
    of all classes together: the number of images may be too small for each class alone.

    Args:
        counts: (K,) boxes in the labelled set, which has `labelled` images.
    """
    histogram, images = ScoreHistogram(len(counts)), 0
    for row in store:
        if row.found is not None:
            histogram.add(row.found.pred_classes, row.found.scores)
            images += 1
    wanted = counts.double() / max(1, labelled) * images
    own = matched_thresholds(histogram.counts, wanted)
    shared = matched_thresholds(histogram.counts.sum(0, keepdim=True), wanted.sum()[None])
    return torch.where(wanted < 1, shared.expand_as(own), own)


def feature_matrix(store: PredictionStore) -> np.ndarray:
    """(n, D) float16 of the images that can be read, in their order."""
    rows = [row.feature for row in store if row.feature is not None]
    return np.stack(rows) if rows else np.zeros((0, 1), np.float16)
