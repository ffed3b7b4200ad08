"""Steps of a tiny detector with CI-SSOD's methods, for their tests."""

from __future__ import annotations

from typing import Any, List

import torch
from detectron2.structures import Instances

from ssod.engine.teacher_student import TeacherStudent
from ssod.structures import PseudoLabels
from steps import cfg_with, core_of

GBR, GBT, CRS = "GradientReweighting", "GradientThresholding", "ClassRebalancingSampling"


def build(methods: tuple[str, ...], *keys: Any) -> TeacherStudent:
    """The step without burn-in and warm-up."""
    cfg = cfg_with(methods, "SSOD.BURN_IN_STEPS", 0)
    for node in ("GRADIENT_REWEIGHTING", "GRADIENT_THRESHOLDING", "LABEL_MATCH"):
        cfg.SSOD[node].WARMUP_STEPS = 0
    cfg.SSOD.CLASS_REBALANCING_SAMPLING.WARMUP_STEPS = 0
    cfg.merge_from_list(list(keys))
    return core_of(cfg)


class Context:
    """The parts of a `StepContext` that methods read."""

    def __init__(self, step: int = 0, **methods: Any) -> None:
        self.step, self.methods = step, methods


def labels_of(rows: List[List[tuple[int, float]]], selected: float = 0.0) -> PseudoLabels:
    """(class, score) pairs of each image; those with a score of at least `selected` are
    selected.
    """
    found = []
    for row in rows:
        instances = Instances((64, 64))
        instances.gt_classes = torch.tensor([c for c, _ in row], dtype=torch.int64)
        instances.scores = torch.tensor([s for _, s in row])
        instances.selected = instances.scores >= selected
        found.append(instances)
    return PseudoLabels(found)
