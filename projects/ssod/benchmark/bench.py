"""One config's trainer driven step by step, with a clock on its parts, and plain Detectron2 on the
same images.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ssod.detectors.fast_ops import plain_ops
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.structures import Sample, Views

SECTIONS = ("data", "teacher", "student forward", "backward", "optimiser", "EMA")
_NEVER = 10**9


class Stopwatch:
    """Adds up the seconds that wrapped functions take, by section.

    Args:
        synchronize: called before every reading of the clock, so that the time includes the
            device's work.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.seconds: Dict[str, float] = {}
        self._synchronize = synchronize

    @contextlib.contextmanager
    def time(self, section: str) -> Iterator[None]:
        """Times the code inside. Sections must not be nested, except in a total."""
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        spent = time.perf_counter() - start
        self.seconds[section] = self.seconds.get(section, 0.0) + spent

    def wrap(self, owner: Any, name: str, section: str) -> None:
        """Replaces a method of one object by a timed one."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time(section):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)


@dataclass
class PlainInputs:
    """The inputs that Detectron2's own model gets for the images of one step.

    Attributes:
        student: its inputs, images on the CPU as a loader yields them, with gt_boxes, gt_classes
            and, where they are trained, gt_masks. teacher: weak views.
    """

    student: List[Dict[str, Any]]
    teacher: List[Dict[str, Any]]


def plain_inputs(views: Views, unlabeled: List[Sample]) -> PlainInputs:
    """The images and targets of `views` as dataset dicts; images that methods add (`views.extra`)
    are left out.
    """
    student = []
    for view in (views.labeled, views.unlabeled):
        for image, target in zip(view.images, view.targets) if view else ():
            own = Instances(target.image_size)
            own.gt_boxes, own.gt_classes = target.gt_boxes, target.gt_classes
            if target.has("gt_masks"):
                own.gt_masks = target.gt_masks
            student.append({"image": image.cpu(), "instances": own})
    return PlainInputs(student, [{"image": sample.weak.cpu()} for sample in unlabeled])


class Bench:
    """One config's trainer, driven step by step outside its own loop.

    Args:
        cfg: not frozen; changed so that mutual learning starts at the first step and nothing but
            steps is run.
        folder: for what the trainer writes.
    """

    def __init__(self, cfg: CfgNode, folder: str) -> None:
        _only_steps(cfg, folder)
        self.cuda = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        self.trainer = SSODTrainer(cfg)
        self.trainer.resume_or_load(resume=False)
        self.trainer.iter = self.trainer.start_iter
        self.trainer.storage = self.storage = EventStorage(self.trainer.iter)
        self.core, self.loop = self.trainer.core, self.trainer._trainer
        self._plain_storage = EventStorage()
        self._inside = False  # whether borders between sections synchronise
        self.watch = Stopwatch(self._synchronize_inside)
        self.views: Optional[Views] = None
        self._instrument()
        with self.storage:
            self.trainer.before_train()

    def _instrument(self) -> None:
        watch, core, loop = self.watch, self.core, self.loop
        run_student = core.run_student

        def remember_views(views: Views) -> Any:
            self.views = views
            return run_student(views)

        core.run_student = remember_views  # type: ignore[method-assign]
        for name, section in (
            ("label", "teacher"),
            ("run_student", "student forward"),
            ("losses", "student forward"),
        ):
            watch.wrap(core, name, section)
        watch.wrap(loop, "_backward", "backward")
        watch.wrap(loop, "_optimize", "optimiser")
        watch.wrap(self.trainer.average, "update", "EMA")
        build = loop._build_loader

        def timed_batches(*args: Any) -> Iterator[Any]:
            batches = iter(build(*args))
            while True:
                with watch.time("data"):
                    batch = next(batches)
                yield batch

        loop._build_loader = timed_batches

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _synchronize_inside(self) -> None:
        if self._inside:
            self._synchronize()

    def step(self, split: bool) -> Dict[str, float]:
        """Runs one step of the trainer with all its hooks.

        Args:
            split: waits for the device between sections. On a GPU the total is then longer than in
                training.

        Returns:
            Seconds by section; "total" and "rest" (total minus sections).
        """
        trainer = self.trainer
        self._inside = split
        self.watch.seconds = dict.fromkeys(SECTIONS, 0.0)
        self._synchronize()
        start = time.perf_counter()
        with self.storage:
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            trainer.iter += 1
            self.storage.step()
        self._synchronize()
        total = time.perf_counter() - start
        seconds = dict(self.watch.seconds)
        seconds["rest"] = total - sum(seconds.values())
        seconds["total"] = total
        return seconds

    def lower_bound(self) -> Dict[str, float]:
        """Seconds, by section, of plain Detectron2 on the last step's images with the same weights.

        One training forward and backward of all of the student's images in one batch, and one
        inference of the weak unlabelled views; synchronised inside as the last step was.
        Preprocessing is included; loading, loss weights, methods, optimiser and average are not.
        """
        assert self.views is not None
        inputs = plain_inputs(self.views, self.core.last_batch.unlabeled)
        student, teacher = self.core.student, self.core.teacher
        state = self.core.checkpointables()
        before = {name: copy.deepcopy(item.state_dict()) for name, item in state.items()}
        watch = Stopwatch(self._synchronize_inside)
        self._synchronize()
        start = time.perf_counter()
        with self._plain_storage, plain_ops(student, teacher):
            with watch.time("student forward"), self.loop._autocast():
                losses = student(inputs.student)
            with watch.time("backward"):
                loss: Tensor = sum(losses.values())
                loss.backward()
            if inputs.teacher:
                with watch.time("teacher"), torch.no_grad(), self.loop._autocast():
                    if isinstance(teacher, GeneralizedRCNN):
                        teacher.inference(inputs.teacher, do_postprocess=False)
                    else:
                        teacher(inputs.teacher)
        self._synchronize()
        watch.seconds["total"] = time.perf_counter() - start
        # The model's own forward moves a loss normaliser, for one.
        for name, value in before.items():
            state[name].load_state_dict(value)
        self.loop.optimizer.zero_grad(set_to_none=True)
        return watch.seconds

    def images_per_step(self) -> Dict[str, int]:
        """Images of one micro-batch: what student and teacher see, and what methods add."""
        assert self.views is not None
        unlabeled = self.views.unlabeled
        return {
            "student_labeled": len(self.views.labeled.images),
            "student_unlabeled": len(unlabeled.images) if unlabeled else 0,
            "student_extra": sum(len(images) for images in self.views.extra.values()),
            "teacher": len(self.core.last_batch.unlabeled),
        }


def _only_steps(cfg: CfgNode, folder: str) -> None:
    first = 0
    if cfg.SSOD.BURN_IN_CHECKPOINT:
        data = SSODCheckpointer(nn.Identity()).load_file(cfg.SSOD.BURN_IN_CHECKPOINT)
        first = int(data.get("trainer", {}).get("iteration", -1)) + 1
    if cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS != 1:
        raise UserError(
            f"SOLVER.GRADIENT_ACCUMULATION_STEPS is {cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS}: the lower bound is one "
            "batch; add SOLVER.GRADIENT_ACCUMULATION_STEPS 1 and scale the batches."
        )
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, and there is no GPU: add MODEL.DEVICE cpu."
        )
    cfg.SSOD.BURN_IN_STEPS = first
    cfg.SOLVER.MAX_ITER = _NEVER
    cfg.SOLVER.CHECKPOINT_PERIOD = _NEVER
    cfg.TEST.EVAL_PERIOD = 0
    cfg.OUTPUT_DIR = folder


def log_to_stderr() -> None:
    """Sends logs to stderr. Detectron2's loggers would write to stdout, which is for the result."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    for name in ("ssod", "detectron2", "fvcore"):
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.setLevel(logging.INFO)  # at a lower level the trainer would set up its own logger
        log.propagate = False
