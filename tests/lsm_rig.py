"""A step with LSM's methods, whose teacher finds the boxes that a test names."""

from __future__ import annotations

from typing import Any, Dict, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from detections import detections
from ssod.structures import SSODBatch
from steps import cfg_with, core_of, teacher_finds
from tiny import SIZE, make_sample

Row = Tuple[Sequence[float], int, float]


def config(*methods: str, **keys: Any) -> CfgNode:
    """The tiny detector with these methods, lambda_u 1, and keys of `SSOD` (`PIM__LEVELS=...`)."""
    own = [word for k, v in keys.items() for word in (f"SSOD.{k.replace('__', '.')}", v)]
    return cfg_with(methods, "SSOD.UNSUP_LOSS_WEIGHT", 1.0, *own)


def found_rows(rows: Sequence[Row], size: Tuple[int, int] = (SIZE, SIZE)) -> Instances:
    """The predictions of one image, one (box, class, score) each."""
    boxes, classes, scores = ([row[i] for row in rows] for i in range(3))
    return detections(scores, classes, boxes, size)


class Rig:
    """A step whose teacher finds `found`: the rows of each unlabelled image, `size` pixels square.

    Attributes:
        core: the step. batch: its images. outputs: the student's, of the last step.
    """

    def __init__(self, cfg: CfgNode, found: Sequence[Sequence[Row]], size: int = 64) -> None:
        self.core = core_of(cfg)
        teacher_finds(self.core, [found_rows(rows, (size, size)) for rows in found])
        unlabeled = [make_sample(9 + i, False, (size, size)) for i in range(len(found))]
        # At least two: GroupNorm of 32 groups has nothing to average over one cell of one image.
        self.batch = SSODBatch([make_sample(1, True), make_sample(2, True)], unlabeled)
        self.outputs: Any = None
        run_student = self.core.run_student

        def remember(views: Any) -> Any:
            self.outputs = run_student(views)
            return self.outputs

        self.core.run_student = remember  # type: ignore[method-assign]

    def step(self, backward: bool = True) -> Dict[str, torch.Tensor]:
        torch.manual_seed(1)
        with EventStorage() as storage:
            losses = self.core(self.batch)
            self.metrics = {name: value for name, (value, _) in storage.latest().items()}
        if backward:
            sum(losses.values()).backward()
        return losses

    def branch(self) -> Any:
        """PIM's RoIs, computed once more."""
        context = self.core.context(self.batch)
        return context.methods["PIM"].run(self.outputs, context)  # type: ignore[attr-defined]


BOX, OTHER = (10.0, 10, 34, 34), (40.0, 36, 60, 58)
LOSSES = ("loss_cls_pim", "loss_box_reg_pim", "loss_self_distillation")
FULL = ("ScoreThreshold", "PIM", "SelfDistillation")
