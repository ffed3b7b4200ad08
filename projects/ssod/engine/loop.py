"""One optimiser step: data, autocast, micro-batches, scaling, clipping, update, schedule,
metrics.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssod.engine.precision import autocast
from ssod.engine.solver import clip_gradients, match_layout, start_momentum
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import NothingLeftToTrain, TrainingDiverged, UserError
from ssod.structures import SSODBatch
from ssod.utils.comm import all_reduce_mean
from ssod.utils.failures import MEMORY_ADVICE, is_out_of_memory

logger = logging.getLogger(__name__)

# (sampler state or None, first step) -> batches
LoaderFactory = Callable[[Optional[Dict[str, Any]], int], Iterable[SSODBatch]]
_DIVERGED_ADVICE = "lower SOLVER.BASE_LR, or switch on SOLVER.CLIP_GRADIENTS."


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seeds every generator as a function of (seed, rank, step). So no generator's state has to be
    saved.
    """
    words = np.random.SeedSequence([seed, rank, step]).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(words)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


class TrainLoop:
    """Holds the state that a step changes besides the model: optimiser, schedule, scaler and stream
    positions.

    Args:
        model: `TeacherStudent`, wrapped in DDP or not. build_loader: called once, at the first
            step.
        seed: the seed of the whole run, the same on all ranks.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        build_loader: LoaderFactory,
        seed: int,
    ) -> None:
        self.cfg = cfg
        self.model = model
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        assert isinstance(inner, TeacherStudent)
        self.core = inner
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.seed = seed
        self.accumulation = cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
        self.skipped: Dict[str, str] = {}
        self._build_loader = build_loader
        self._batches: Optional[Iterator[SSODBatch]] = None
        self._sampler_state: Optional[Dict[str, Any]] = None
        self._names = {p: name for name, p in self.core.named_parameters() if p.requires_grad}
        device = torch.device(cfg.MODEL.DEVICE).type
        self._autocast, scaled = autocast(cfg)
        self.scaler = torch.amp.GradScaler(device, enabled=scaled)

    def run_step(self, step: int, stop: bool = False) -> bool:
        """Runs step number `step`, counted from 0.

        Args:
            stop: whether this rank has been asked to stop.

        Returns:
            Whether any rank has been asked to stop. The result is the same on all ranks.
        """
        try:
            return self._run_step(step, stop)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(f"The memory is exhausted in step {step}: {MEMORY_ADVICE}.") from None

    def _run_step(self, step: int, stop: bool) -> bool:
        if self._batches is None:
            self._batches = iter(self._build_loader(self._sampler_state, step))
        seed_step(self.seed, comm.get_rank(), step)
        self.core.step = step
        total: Dict[str, Tensor] = {}
        numbers: Dict[str, float | Tensor] = {}
        waited = 0.0
        for micro in range(self.accumulation):
            start = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - start
            self._note_skipped(batch)
            self._sampler_state = batch.sampler_state
            last = micro == self.accumulation - 1
            wait: Any = contextlib.nullcontext()
            if not last and isinstance(self.model, DistributedDataParallel):
                wait = self.model.no_sync()
            with wait:
                with self._autocast():
                    losses = self._forward(batch, step)
                self._backward(losses)
            for name, value in losses.items():
                part = value.detach().float() / self.accumulation
                total[name] = total[name] + part if name in total else part
            for name, number in self.core.last_numbers.items():
                numbers[name] = numbers.get(name, 0.0) + number / self.accumulation
        self._optimize()
        stop = self._write_metrics(total, numbers, waited, step, stop)
        with _quiet_scheduler():
            self.scheduler.step()
        return stop

    def _forward(self, batch: SSODBatch, step: int) -> Dict[str, Tensor]:
        try:
            return self.model(batch)
        except FloatingPointError as error:  # Detectron2's check of the RPN's predictions
            raise TrainingDiverged(
                f"Training diverged at step {step} ({error}): {_DIVERGED_ADVICE}"
            ) from None

    def _backward(self, losses: Dict[str, Tensor]) -> None:
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        self.scaler.scale(loss / self.accumulation).backward()

    def _optimize(self) -> None:
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.cfg, list(self._names))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _write_metrics(
        self,
        losses: Dict[str, Tensor],
        further: Mapping[str, float | Tensor],
        waited: float,
        step: int,
        stop: bool,
    ) -> bool:
        names = sorted(losses)
        device = next(iter(losses.values())).device
        others = [
            torch.as_tensor(value, dtype=torch.float32, device=device)
            for value in (*further.values(), waited, float(stop))
        ]
        values = torch.stack([losses[name] for name in names] + others)
        all_reduce_mean([values])
        numbers = values.tolist()
        stop = numbers.pop() > 0
        storage = get_event_storage()
        for name, value in zip(further, numbers[len(names) :]):
            storage.put_scalar(name, value, smoothing_hint=False)
        del numbers[len(names) : -1]
        storage.put_scalar("data_time", numbers.pop())
        storage.put_scalar("lr", self.optimizer.param_groups[0]["lr"], smoothing_hint=False)
        if self.scaler.is_enabled():
            storage.put_scalar("loss_scale", self.scaler.get_scale(), smoothing_hint=False)
        if not np.isfinite(numbers).all():
            found = ", ".join(f"{name}={value:.3g}" for name, value in zip(names, numbers))
            raise TrainingDiverged(
                f"The loss became infinite or NaN at step {step} ({found}): {_DIVERGED_ADVICE}"
            )
        storage.put_scalars(total_loss=sum(numbers), **dict(zip(names, numbers)))
        return stop

    def _note_skipped(self, batch: SSODBatch) -> None:
        for sample in batch.labeled + batch.unlabeled:
            for file_name, reason in sample.skipped:
                if file_name not in self.skipped:
                    self.skipped[file_name] = reason
                    logger.warning(
                        f"Cannot use {file_name} ({reason}); another image takes its place. "
                        f"{len(self.skipped)} such files so far."
                    )

    def state_dict(self) -> Dict[str, Any]:
        """Returns tensors and Python values. The optimiser state is by parameter name, so that
        other runs can branch.
        """
        packed = self.optimizer.state_dict()
        return {
            "optimizer": {
                name: packed["state"][index]
                for index, name in enumerate(self._optimizer_names())
                if index in packed["state"]
            },
            "scheduler": self.scheduler.last_epoch,
            "scaler": self.scaler.state_dict(),
            "sampler": self._sampler_state,
            "seed": self.seed,
            "skipped": dict(self.skipped),
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Restores `state_dict()`. Call it before the first step, which starts the loader."""
        if state["scheduler"] > self.cfg.SOLVER.MAX_ITER:
            raise NothingLeftToTrain(
                f"The checkpoint has {state['scheduler']} steps behind it and SOLVER.MAX_ITER is {self.cfg.SOLVER.MAX_ITER}: "
                "raise that to go on, or give another OUTPUT_DIR."
            )
        own = self.cfg.SOLVER.OPTIMIZER
        if any(("exp_avg" in entry) != (own == "AdamW") for entry in state["optimizer"].values()):
            raise UserError(
                f"the checkpoint is of another optimiser than SOLVER.OPTIMIZER {own}: use the one that wrote it, or another "
                "OUTPUT_DIR."
            )
        packed = self.optimizer.state_dict()
        packed["state"] = {
            index: state["optimizer"][name]
            for index, name in enumerate(self._optimizer_names())
            if name in state["optimizer"]
        }
        self.optimizer.load_state_dict(packed)
        start_momentum(self.optimizer)
        match_layout(self.optimizer)
        # The schedule is this run's. The checkpoint gives only the position in it.
        self.scheduler.last_epoch = state["scheduler"] - 1
        with _quiet_scheduler():
            self.scheduler.step()
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._sampler_state = state["sampler"]
        self.seed = state["seed"]
        self.skipped = dict(state["skipped"])

    def _optimizer_names(self) -> List[str]:
        return [self._names[p] for group in self.optimizer.param_groups for p in group["params"]]


@contextlib.contextmanager
def _quiet_scheduler() -> Iterator[None]:
    """Silences PyTorch's warning that `optimizer.step` was not called before the scheduler. The
    scaler calls it.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield
