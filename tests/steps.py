"""Helpers for tests of the training step on the tiny detector. They make the step, its batches and
its teacher's detections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable, List, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from ssod.detectors.outputs import Outputs
from ssod.engine.teacher_student import TeacherStudent
from ssod.methods import StepContext, TrainingData, build_methods
from ssod.structures import PseudoLabels, Sample, SSODBatch
from tiny import CLASSES, SIZE, make_sample, tiny_cfg


def cfg_with(methods: Tuple[str, ...], *keys: Any, norm: str = "GN") -> CfgNode:
    """The tiny detector's config with these methods, and further keys and values."""
    cfg = tiny_cfg(norm)
    cfg.merge_from_list(["SSOD.METHODS", methods, *keys])
    return cfg


def core_of(
    cfg: CfgNode, seed: int = 0, data: Optional[TrainingData] = None, student: Any = None
) -> TeacherStudent:
    """The training step of a config. Its weights follow from `seed`.

    Args:
        data: the methods are set up with it. None: they are not set up.
        student: a built model. None: the model of `cfg` is built.
    """
    torch.manual_seed(seed)
    methods = build_methods(cfg)
    for method in methods.values():
        if data is not None:
            method.setup(data)  # type: ignore[operator]
    return TeacherStudent.from_config(cfg, student or build_model(cfg), methods)


def no_images() -> TrainingData:
    """The smallest data that methods can be set up with: class names and no images."""
    return TrainingData([], [], CLASSES)


def spread_predictions(core: TeacherStudent, classes: float = 0.0, boxes: float = 0.0) -> None:
    """Makes the box head's predictions differ as much as those of a trained box head.

    Args:
        classes: standard deviation of the classification weights. 0: they stay as they are.
        boxes: the same for the weights of the box regression.
    """
    predictor: Any = core.student.roi_heads.box_predictor
    for layer, deviation in ((predictor.cls_score, classes), (predictor.bbox_pred, boxes)):
        if deviation:
            nn.init.normal_(layer.weight, std=deviation)
    core.teacher.load_state_dict(core.student.state_dict())


def batch(labeled: int = 2, unlabeled: int = 2, size: Tuple[int, int] = (SIZE, SIZE)) -> SSODBatch:
    """Images of squares. The unlabelled images are different from the labelled ones.

    Args:
        size: (height, width) of the labelled images.
    """
    return SSODBatch(
        [make_sample(i, True, size) for i in range(labeled)],
        [make_sample(10 + i, False) for i in range(unlabeled)],
    )


def bare_context(samples: Iterable[Sample] = (), methods: Any = None, step: int = 0) -> StepContext:
    """The context of a method that is tested without a detector.

    Args:
        samples: the unlabelled images.
        methods: the run's methods, by name.
    """
    nothing: Any = None
    own = {} if methods is None else methods
    return StepContext(step, SSODBatch([], list(samples)), nothing, nothing, methods=own)


def teacher_finds(core: TeacherStudent, found: Sequence[Instances]) -> None:
    """Makes the teacher find these detections: one entry an unlabelled image, or one for all."""
    label = core.label

    def wanted(samples: List[Sample]) -> Any:
        rows = list(found) * len(samples) if len(found) == 1 else list(found)
        return replace(label(samples), detections=rows)

    core.label = wanted  # type: ignore[method-assign]


def run_student(
    core: TeacherStudent, pseudo: Optional[PseudoLabels], context: StepContext
) -> Outputs:
    """Phases 4 and 5: the student's views, and its forward over them."""
    return core.run_student(core.student_views(context.batch, pseudo, context))
