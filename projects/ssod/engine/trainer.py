"""SSODTrainer: Detectron2's `DefaultTrainer` with a teacher, two streams and methods.

`SSODTrainer(cfg)`, `resume_or_load(resume)` and `train()` are Detectron2's, and so are the methods
to override: `build_model`, `build_optimizer`, `build_lr_scheduler`, `build_evaluator`,
`build_test_loader`, `build_hooks`, `build_writers`.
"""

from __future__ import annotations

import logging
import os
import signal
import weakref
from collections import OrderedDict
from functools import partial
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn

from ssod.data.catalog import trained_images
from ssod.data.loader import build_train_loader
from ssod.data.snapshots import SnapshotBoard
from ssod.data.splits import check_split_hashes
from ssod.detectors.fast_ops import use_fast_ops
from ssod.engine.branching import branch
from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.config_checks import check_config, check_device_present
from ssod.engine.config_warnings import warnings_about
from ssod.engine.ema import MovingAverage
from ssod.engine.eval_only import evaluate_checkpoint
from ssod.engine.finishing import load_best, save_plain, write_results
from ssod.engine.hook_list import training_hooks
from ssod.engine.hooks import Evaluation
from ssod.engine.imports import import_parts
from ssod.engine.interruption import Interrupted, Interruptible, StopRequest, report_stop
from ssod.engine.launch import wrap_ddp
from ssod.engine.loading import build_detector, check_weights_match, training_data
from ssod.engine.loop import TrainLoop
from ssod.engine.skipped import write_skipped
from ssod.engine.solver import build_optimizer, scale_config
from ssod.engine.starting import clear_former_run, warn_untrained
from ssod.engine.teacher_student import TeacherStudent
from ssod.engine.writers import build_writers
from ssod.errors import UserError
from ssod.evaluation import evaluate
from ssod.evaluation.build import prepare_evaluation
from ssod.evaluation.loader import build_test_loader
from ssod.methods import Method, build_methods, learns_from_unlabeled
from ssod.missing import require_packages
from ssod.trackers.build import build_trackers, check_trackers, end_trackers
from ssod.utils import run_lock
from ssod.utils.run_lock import make_output_dir

__all__ = ["SSODTrainer", "evaluate_checkpoint"]

logger = logging.getLogger(__name__)


class SSODTrainer(DefaultTrainer):
    """Trains `TeacherStudent` from a config with `add_ssod_config`'s keys.

    Files in `OUTPUT_DIR`: `model_*.pth` (full state; `--resume` continues from the newest),
    `model_final.pth`, `teacher_final.pth` and, with DATASETS.VAL, `teacher_best.pth` (plain
    Detectron2 weights), `results.json`, `metrics.json`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        check_config(cfg)
        check_device_present(cfg.MODEL.DEVICE)
        require_packages()
        check_trackers(cfg.SSOD.WRITERS)
        make_output_dir(cfg.OUTPUT_DIR)
        if not logging.getLogger("ssod").isEnabledFor(logging.INFO):
            setup_logger(name="ssod")
        import_parts(cfg.SSOD.IMPORTS)
        self.cfg = cfg = scale_config(cfg, comm.get_world_size())
        check_split_hashes(cfg)
        prepare_evaluation(cfg, ("VAL", "TEST"))
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed() % 2**31
        torch.manual_seed(seed)  # the same initial weights on every rank
        methods = build_methods(cfg)
        for line in warnings_about(cfg):
            logger.warning(line)
        self.mutual = learns_from_unlabeled(cfg)
        self.data = training_data(cfg)
        for line in trained_images(cfg, self.data.labeled):
            logger.warning(line)
        # The step at which mutual learning starts. A supervised run never reaches it.
        self.mutual_from = cfg.SSOD.BURN_IN_STEPS if self.mutual else cfg.SOLVER.MAX_ITER

        student = self.build_model(cfg)
        use_fast_ops(student, cfg.SSOD.FAST_OPS)
        for method in methods.values():
            assert isinstance(method, Method)
            method.setup(self.data)
        self.core = TeacherStudent.from_config(cfg, student, methods).to(cfg.MODEL.DEVICE)
        if cfg.SSOD.METHODS:
            logger.info("Methods, in order: " + ", ".join(cfg.SSOD.METHODS))
        optimizer = self.build_optimizer(cfg, self.core)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        model = wrap_ddp(self.core)
        self.average = MovingAverage(self.core.teacher, self.core.student)
        self.board = SnapshotBoard(
            os.path.join(cfg.OUTPUT_DIR, "snapshots"), cfg.SSOD.SNAPSHOT_DELAY
        )
        self._trainer = TrainLoop(cfg, model, optimizer, self.scheduler, self._loader_from, seed)
        self.best: Dict[str, Any] = {"AP": -1.0, "step": -1, "model": "teacher"}
        self.checkpointer = SSODCheckpointer(
            student,
            cfg.OUTPUT_DIR,
            teacher=self.core.teacher,
            methods=self.core.methods,
            loop=self._trainer,
            board=self.board,
            trainer=weakref.proxy(self),
            **self.core.checkpointables(),
        )
        self._event_writers: List[EventWriter] = []
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.stop_request = StopRequest()
        # A signal interrupted the evaluation at the checkpoint's step, so resuming repeats it
        # first.
        self._evaluation_due = False
        self.register_hooks(self.build_hooks())

    # ---------------------------------------------------------------- building

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The student, as `detectron2.modeling.build_model` builds it."""
        return build_detector(cfg)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Detectron2's learning-rate scheduler."""
        try:
            return super().build_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UserError(
                f"The learning rate has no schedule ({error}): check SOLVER.LR_SCHEDULER_NAME, STEPS, WARMUP_ITERS and "
                f"MAX_ITER, {cfg.SOLVER.MAX_ITER}."
            ) from None

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """SGD or AdamW over everything in `model` that requires a gradient."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: Optional[str] = None
    ) -> Any:
        """A Detectron2 evaluator. Override this to use your own."""
        from ssod.evaluation import build_evaluator

        return build_evaluator(
            cfg, dataset_name, output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Loads the test images of a dataset. Override this to use your own loader.

        Detectron2's own loader would end the run at a damaged image.
        """
        return build_test_loader(cfg, dataset_name)

    def _loader_from(self, state: Optional[Dict[str, Any]], step: int) -> Any:
        transforms = {m.name: m.view_transform() for m in self.core.method_list}
        publishing = any(type(m).snapshot is not Method.snapshot for m in self.core.method_list)
        return build_train_loader(
            self.cfg,
            self.data.labeled,
            self.data.unlabeled,
            view_transforms={name: t for name, t in transforms.items() if t is not None},
            board=self.board if publishing else None,
            seed=self._trainer.seed,
            state=state,
            start_step=step,
        )

    def build_hooks(self) -> List[Optional[HookBase]]:
        """The hooks in their order, see `training_hooks`. Override this to add your own."""
        built = training_hooks(
            self.cfg,
            self.core,
            self.data,
            average=self.average,
            board=self.board,
            checkpointer=self.checkpointer,
            mutual_from=self.mutual_from if self.mutual else None,
            evaluate=self._evaluate,
            remember_best=self._remember_best,
        )
        if comm.is_main_process():
            self._writer_hook = next(h for h in built if isinstance(h, hooks.PeriodicWriter))
        return built

    def build_writers(self) -> List[EventWriter]:
        """Console, metrics.json, TensorBoard, and the trackers of SSOD.WRITERS."""
        trackers = build_trackers(self.cfg)
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter, self.start_iter, trackers)

    # ---------------------------------------------------------------- running

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues the run in `OUTPUT_DIR`, branches from `SSOD.BURN_IN_CHECKPOINT`, or loads
        MODEL.WEIGHTS.
        """
        self._lock_output()
        if resume and self.checkpointer.has_checkpoint():
            self.checkpointer.resume_or_load("", resume=True)
            self.start_iter = self.iter + 1
            return
        clear_former_run(self.cfg.OUTPUT_DIR)
        if self.cfg.SSOD.BURN_IN_CHECKPOINT:
            self.start_iter = branch(
                self.checkpointer.load_file(self.cfg.SSOD.BURN_IN_CHECKPOINT),
                self.cfg,
                self.core,
                self._trainer,
                last_start=self.mutual_from if self.mutual else None,
            )
        else:
            self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=False)
            check_weights_match(self.cfg, self.cfg.MODEL.WEIGHTS, self.checkpointer)
            warn_untrained(self.cfg, self.core.student)
            self.average.copy()

    def _lock_output(self) -> None:
        if comm.is_main_process():
            run_lock.hold(self.cfg.OUTPUT_DIR)

    def train(self) -> Optional["OrderedDict[str, Any]"]:
        """Runs to `SOLVER.MAX_ITER`, then evaluates its result on `DATASETS.TEST`.

        The result is the best teacher on `DATASETS.VAL`, or the last teacher without that set.

        Raises:
            Interrupted: SIGINT or SIGTERM came. After the first one, a checkpoint has been written.
        """
        self._lock_output()
        status = "failed"
        results: Optional["OrderedDict[str, Any]"] = None
        try:
            with self.stop_request:
                self._train()
                results = self._finish()
                status = "finished"
                return results
        except Interrupted as stop:
            status = "interrupted"
            report_stop(stop, self.iter, self.max_iter, self.cfg.OUTPUT_DIR)
            raise
        finally:
            end_trackers(self._event_writers, status, self.cfg.OUTPUT_DIR, results, self.iter)
            run_lock.release(self.cfg.OUTPUT_DIR)

    def _train(self) -> None:
        if comm.is_main_process():
            self._event_writers = self._writer_hook._writers = self.build_writers()
        # Detectron2's own loop would log a traceback before the one line of a `UserError`.
        self.iter = self.start_iter
        write_skipped(self.cfg, self._trainer.skipped)
        with EventStorage(self.start_iter) as self.storage:
            self.before_train()
            try:
                if self._evaluation_due:
                    self._evaluate_first()
                for self.iter in range(self.start_iter, self.max_iter):
                    self.before_step()
                    self.run_step()
                    self._after_step()
                self.iter = self.max_iter
            finally:
                self.after_train()

    def run_step(self) -> None:
        asked = self.stop_request.number is not None
        self._stopping = self._trainer.run_step(self.iter, asked)

    def _after_step(self) -> None:
        """Runs the hooks, and ends the run if a signal asked for it. All ranks take the same
        decision.
        """
        try:
            self.after_step()
        except Interrupted as stop:
            if stop.at_once:  # in any hook, even between the student's update and the teacher's
                raise
            self._evaluation_due = True
            self._save_now()
            raise
        asked = self._stopping or (comm.get_world_size() == 1 and self.stop_request.number)
        if asked and self.iter + 1 < self.max_iter:
            self._save_now()
            raise Interrupted(self.stop_request.number or signal.SIGTERM)

    def _evaluate_first(self) -> None:
        """Does the evaluation that a signal prevented after the last step of the resumed run."""
        self.iter = self.storage.iter = self.start_iter - 1
        first = next(i for i, hook in enumerate(self._hooks) if isinstance(hook, Evaluation))
        for hook in self._hooks[first:]:
            hook.after_step()
        self._evaluation_due = False

    def _save_now(self) -> None:
        """Writes the checkpoint from which `--resume` continues."""
        if comm.is_main_process():
            self.checkpointer.save(f"model_{self.iter:07d}")
        comm.synchronize()

    def _evaluate(self, role: str) -> Dict[str, Any]:
        names = self.cfg.DATASETS.VAL or self.cfg.DATASETS.TEST
        results = self._evaluate_on(role, list(names))
        write_skipped(self.cfg, self._trainer.skipped)
        return results

    def _evaluate_on(self, role: str, names: List[str]) -> Dict[str, Any]:
        model = self.core.teacher if role == "teacher" else self.core.student
        training = model.training
        model.eval()
        folder = os.path.join(self.cfg.OUTPUT_DIR, "inference", role)
        try:
            return evaluate(
                self.cfg,
                model,
                names,
                folder,
                build=partial(self.build_evaluator, self.cfg),
                build_loader=self._test_loader,
            )
        finally:
            model.train(training)

    def _test_loader(self, name: str) -> Any:
        return Interruptible(self.build_test_loader(self.cfg, name), self.stop_request)

    def _remember_best(self, scores: Dict[str, float], step: int) -> None:
        """Keeps the best model. `scores`: AP by role.

        Only the teacher counts unless SSOD.SELECT_FROM names the student too. Nothing is chosen on
        the test set, which is evaluated in training if there is no DATASETS.VAL.
        """
        if not self.cfg.DATASETS.VAL:
            return
        for role in self.cfg.SSOD.SELECT_FROM:
            ap = scores[role]
            if np.isfinite(ap) and ap > self.best["AP"]:
                self.best = {"AP": ap, "step": step, "model": role}
                self._save_weights("teacher_best", role)

    def _save_weights(self, name: str, role: str = "teacher") -> None:
        model = self.core.teacher if role == "teacher" else self.core.student
        save_plain(self.checkpointer, name, model)

    def _finish(self) -> "OrderedDict[str, Any]":
        self._save_weights("teacher_final")
        results: "OrderedDict[str, Any]" = OrderedDict()
        # Only rank 0 knows the best model and is sure to see its file.
        use_best = comm.all_gather(self.best["step"] >= 0)[0]
        if use_best:
            load_best(self.core.teacher, self.checkpointer, self.cfg.OUTPUT_DIR)
        elif self.cfg.DATASETS.VAL:
            self._save_weights("teacher_best")  # other commands expect the file
            logger.warning(
                "No evaluation on DATASETS.VAL gave an AP: teacher_best.pth is the last teacher. Check the labels of DATASETS.VAL."
            )
        if self.cfg.DATASETS.TEST:
            results.update(self._evaluate_on("teacher", list(self.cfg.DATASETS.TEST)))
        write_skipped(self.cfg, self._trainer.skipped, report=True)
        best = self.best if use_best else None
        write_results(self.cfg.OUTPUT_DIR, results, best, self.max_iter)
        return results

    # ---------------------------------------------------------------- state

    def state_dict(self) -> Dict[str, Any]:
        """The iteration, the hooks and the best score. All other state is in separate
        checkpointables.
        """
        return {
            **TrainerBase.state_dict(self),
            "best": dict(self.best),
            "evaluation_due": self._evaluation_due,
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self.best = {"model": "teacher", **state_dict["best"]}
        self._evaluation_due = state_dict.get("evaluation_due", False)
