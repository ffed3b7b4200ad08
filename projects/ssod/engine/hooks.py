"""Hooks around the steps: they average, publish, evaluate, warn and draw."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage

from ssod.data.snapshots import SnapshotBoard
from ssod.engine.ema import MovingAverage
from ssod.engine.teacher_student import TeacherStudent
from ssod.utils.draw import draw_boxes

logger = logging.getLogger(__name__)


class TeacherUpdate(HookBase):
    """Averages the student into the teacher from the first step on. When burn-in ends, the teacher
    becomes a copy of the student.

    Args:
        copy_at: the copy is made before this step. None: never.
        warmup: the decay is at most 1 - 1/n after n steps. So the teacher is first a plain mean of
            the students so far and does not lag behind a student that learns fast. The count starts
            again at the copy.
    """

    def __init__(
        self, average: MovingAverage, decay: float, copy_at: int | None, warmup: bool = False
    ) -> None:
        self.average = average
        self.decay = decay
        self.copy_at = copy_at
        self.warmup = warmup

    def before_step(self) -> None:
        if self.trainer.iter == self.copy_at:
            self.average.copy()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.copy_at is not None and done > self.copy_at:
            done -= self.copy_at
        self.average.update(min(self.decay, 1.0 - 1.0 / done) if self.warmup else self.decay)


class PublishSnapshots(HookBase):
    """Publishes the methods' snapshots for the data loader.

    Args:
        keep_steps: files are deleted if no checkpoint of the last `keep_steps` steps needs them.
    """

    def __init__(self, core: TeacherStudent, board: SnapshotBoard, keep_steps: int) -> None:
        self.core = core
        self.board = board
        self.keep_steps = keep_steps

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        for method in self.core.method_list:
            arrays = method.snapshot(done)
            if arrays is not None:
                self.board.publish(method.name, arrays, done)
                self.board.prune(done - self.keep_steps)


class Evaluation(HookBase):
    """Evaluates teacher and student and passes the results to the trainer, which keeps the best
    model.

    Args:
        period: steps between evaluations. 0: only at the end.
        evaluate: "teacher" or "student" -> the results of Detectron2's evaluators by dataset.
        remember_best: called with (AP of "teacher" and "student" on the first dataset, step).
        mutual_from: first step of mutual learning. Before it, the teacher may lag.
    """

    # The hook warns if the teacher's AP is lower than the student's by more than this.
    TOLERATED_LAG = 5.0

    def __init__(
        self,
        period: int,
        evaluate: Callable[[str], Dict[str, Any]],
        remember_best: Callable[[Dict[str, float], int], None],
        mutual_from: int,
    ) -> None:
        self.period = period
        self.evaluate = evaluate
        self.remember_best = remember_best
        self.mutual_from = mutual_from

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0):
            self._run(done)

    def _run(self, done: int) -> None:
        storage = get_event_storage()
        first: Dict[str, float] = {}
        masks: Dict[str, float] = {}
        for role in ("teacher", "student"):
            results = self.evaluate(role)
            for index, (dataset, tasks) in enumerate(results.items()):
                prefix = role if len(results) == 1 else f"{dataset}/{role}"
                for task, metrics in tasks.items():
                    for name, value in metrics.items():
                        storage.put_scalar(f"{prefix}/{task}/{name}", value, smoothing_hint=False)
                if index == 0 and "bbox" in tasks:
                    first[role] = float(tasks["bbox"]["AP"])
                if index == 0 and "segm" in tasks:
                    masks[role] = float(tasks["segm"]["AP"])
        if not first:  # only rank 0 has results
            return
        logger.info(
            f"step {done}: AP of the teacher {first['teacher']:.2f}, of the student {first['student']:.2f}"
            + (f"; of masks {masks['teacher']:.2f}, {masks['student']:.2f}" if masks else "")
        )
        if done > self.mutual_from and first["teacher"] < first["student"] - self.TOLERATED_LAG:
            logger.warning(
                f"The teacher (AP {first['teacher']:.1f}) is far behind its student ({first['student']:.1f}). "
                "Lower SSOD.EMA.DECAY, or train longer before mutual learning (SSOD.BURN_IN_STEPS)."
            )
        self.remember_best(first, done)


class CollapseWatch(HookBase):
    """Warns if the teacher labels far fewer or far more boxes per image than people did.

    Args:
        labeled_boxes_per_image: the mean over the labelled set.
    """

    PERIOD = 200
    LOW, HIGH = 0.1, 5.0  # times the labelled set's boxes per image

    def __init__(self, labeled_boxes_per_image: float) -> None:
        self.expected = labeled_boxes_per_image
        self.counts: List[float] = []

    def after_step(self) -> None:
        latest = get_event_storage().latest().get("pseudo/boxes_per_image")
        if latest is None or latest[1] != self.trainer.iter:
            return
        self.counts.append(latest[0])
        if len(self.counts) < self.PERIOD:
            return
        mean = sum(self.counts) / len(self.counts)
        self.counts = []
        if mean < self.LOW * self.expected:
            logger.warning(
                f"{mean:.2f} pseudo-boxes per image over {self.PERIOD} steps, {self.expected:.2f} in the labelled "
                "set: the teacher sees almost nothing. Train longer before mutual learning (SSOD.BURN_IN_STEPS) "
                "or lower the threshold."
            )
        elif mean > self.HIGH * self.expected:
            logger.warning(
                f"{mean:.2f} pseudo-boxes per image over {self.PERIOD} steps, {self.expected:.2f} in the labelled "
                "set: the teacher sees too much. Raise the threshold or lower SOLVER.BASE_LR."
            )


class DrawPseudoLabels(HookBase):
    """Puts the first unlabelled image into the event storage: the weak view with pseudo-labels, and
    the strong view.
    """

    def __init__(
        self, core: TeacherStudent, period: int, class_names: List[str], image_format: str
    ) -> None:
        self.core = core
        self.period = period
        self.class_names = class_names
        self.channels = [2, 1, 0] if image_format == "RGB" else [0, 1, 2]  # to BGR, for drawing

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period or self.core.last_pseudo is None:
            return
        row = self.core.last_pseudo.instances[0]
        sample = self.core.last_batch.unlabeled[0]
        kept = row[row.selected]
        weak = draw_boxes(
            sample.weak[self.channels],
            kept.gt_boxes.tensor,
            kept.gt_classes,
            self.class_names,
            scores=kept.scores,
            masks=kept.gt_masks.tensor if kept.has("gt_masks") else None,
        )
        strong = sample.strong[self.channels].flip(0).permute(1, 2, 0)
        picture = torch.cat([torch.from_numpy(weak), strong], dim=1)
        get_event_storage().put_image(
            "pseudo_labels: weak, strong", picture.permute(2, 0, 1).numpy()
        )
