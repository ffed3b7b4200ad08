"""Digit scenes and labels that a teacher might give them, for pictures."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.resources import root
from ssod.structures import PseudoLabels

NUM_CLASSES = 10


@dataclass
class Scene:
    """One image: uint8 RGB (H, W, 3), (T, 4) true boxes in pixels, (T,) classes."""

    image: np.ndarray
    boxes: Tensor
    classes: Tensor


@dataclass
class Labels:
    """What a teacher says: (M, 4) boxes, (M,) classes and scores, the highest score first."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor


@lru_cache(maxsize=None)
def _script() -> Dict[str, Any]:
    return runpy.run_path(str(root() / "datasets" / "digit_scenes.py"))


@lru_cache(maxsize=None)
def scenes(count: int = 6) -> List[Scene]:
    """Scenes of the published set's validation part; the same on every machine."""
    script = _script()
    options = script["Options"]()
    found = []
    for drawn, _ in zip(script["draw_split"](options.splits()["val"], options), range(count)):
        image = np.ascontiguousarray(drawn.image[:, :, ::-1])
        boxes = torch.tensor(drawn.boxes, dtype=torch.float32).reshape(-1, 4)
        found.append(Scene(image, boxes, torch.tensor(drawn.classes)))
    return found


def teacher_labels(scene: Scene, seed: int = 0, copies: int = 3) -> Labels:
    """Labels with the usual errors: inexact boxes, doubtful classes, some of nothing at all.

    Args:
        copies: candidates of each object, of which the first one is the best.
    """
    rng = np.random.default_rng(seed)
    boxes, classes, scores = [], [], []
    for box, label in zip(scene.boxes.numpy(), scene.classes.tolist()):
        best = rng.uniform(0.55, 0.98)
        for copy in range(copies):
            side = np.tile(box[2:] - box[:2], 2)
            boxes.append(box + rng.normal(0, 0.04 + 0.08 * copy, 4) * side)
            other = int(rng.integers(NUM_CLASSES))
            classes.append(label if copy == 0 and best > 0.65 else other)
            scores.append(best * 0.55**copy)
    corner = rng.uniform(5, 90, 2)
    boxes.append(np.array([*corner, *(corner + 22)]))
    classes.append(int(rng.integers(NUM_CLASSES)))
    scores.append(0.35)
    order = np.argsort(scores)[::-1].copy()
    return Labels(
        torch.tensor(np.array(boxes)[order], dtype=torch.float32).clamp(0, 128),
        torch.tensor(np.array(classes)[order]),
        torch.tensor(np.array(scores)[order], dtype=torch.float32),
    )


def pseudo_labels(labels: Labels, height: int = 128, width: int = 128) -> PseudoLabels:
    """The labels as methods get them, of one image."""
    found = Instances((height, width))
    found.pred_boxes = Boxes(labels.boxes)
    found.pred_classes, found.scores = labels.classes, labels.scores
    return PseudoLabels.from_detections([found])
