"""Counts the bytes that a rank sends in training steps, by who sends them.

Bytes are those of the tensors that a rank gives to `torch.distributed`. What a backend moves in
turn depends on its algorithm: a ring all-reduce of n bytes over W ranks sends 2 n (W - 1) / W.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import ssod
from ssod.engine.trainer import SSODTrainer

GRADIENTS = "gradients"
# The argument that holds what this rank sends.
_COLLECTIVES = {"all_reduce": 0, "broadcast": 0, "all_gather": 1, "gather": 0}
_HOUSE = os.path.dirname(os.path.abspath(ssod.__file__)) + os.sep
_PASS_ON = ("utils" + os.sep, "benchmark" + os.sep)


@dataclass
class Traffic:
    """`bytes` and `calls` of a rank, by sender: a file under `projects/ssod`, or `GRADIENTS`."""

    bytes: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)
    paused: bool = False

    def add(self, sender: str, size: int) -> None:
        if not self.paused:
            self.bytes[sender] += size
            self.calls[sender] += 1


def _sender() -> str:
    """The nearest caller in this project, apart from helpers that pass tensors on."""
    frame: Optional[Any] = sys._getframe(2)
    while frame is not None:
        name = os.path.abspath(frame.f_code.co_filename)
        if name.startswith(_HOUSE) and not name[len(_HOUSE) :].startswith(_PASS_ON):
            return name[len(_HOUSE) :].replace(os.sep, "/")
        frame = frame.f_back
    return "other"


@contextlib.contextmanager
def counted(traffic: Traffic) -> Iterator[None]:
    """Counts every collective of `torch.distributed` that runs inside."""
    saved = {name: getattr(dist, name) for name in _COLLECTIVES}

    def wrap(inner: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            sent: Tensor = args[place]
            traffic.add(_sender(), sent.numel() * sent.element_size())
            return inner(*args, **kwargs)

        return call

    for name, place in _COLLECTIVES.items():
        setattr(dist, name, wrap(saved[name], place))
    try:
        yield
    finally:
        for name, inner in saved.items():
            setattr(dist, name, inner)


def measure_traffic(cfg: CfgNode, folder: str, steps: int) -> Tuple[List[Traffic], Dict[str, int]]:
    """Trains `steps` steps of mutual learning on every rank; called on all, with at least two.

    Args:
        cfg: not frozen; changed so that mutual learning begins at once and nothing is evaluated.
        folder: for what the trainer writes.

    Returns:
        What this rank sent: at the start, and in each step; and the bytes of the state it holds,
        by name.
    """
    cfg.SSOD.BURN_IN_STEPS = 0
    cfg.SSOD.BURN_IN_CHECKPOINT = ""
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.SOLVER.MAX_ITER = 10**9
    cfg.TEST.EVAL_PERIOD = 0
    cfg.OUTPUT_DIR = folder
    found = [Traffic()]
    with counted(found[0]):
        trainer = SSODTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.iter = trainer.start_iter
        trainer.storage = EventStorage(trainer.iter)
        with trainer.storage:
            trainer.before_train()
    model = trainer._trainer.model
    assert isinstance(model, DistributedDataParallel)

    def hook(state: Any, bucket: dist.GradBucket) -> Any:
        tensor = bucket.buffer()
        own = found[-1]
        own.add(GRADIENTS, tensor.numel() * tensor.element_size())
        own.paused = True  # the hook below calls `all_reduce`
        try:
            return allreduce_hook(state, bucket)
        finally:
            own.paused = False

    hook.__annotations__.clear()  # DDP compares them with classes, and these are strings
    model.register_comm_hook(None, hook)
    with trainer.storage:
        for _ in range(steps):
            found.append(Traffic())
            with counted(found[-1]):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
            trainer.iter += 1
            trainer.storage.step()
    core = trainer.core
    held = {
        "student_bytes": _size(core.student.state_dict().values()),
        "teacher_bytes": _size(core.teacher.state_dict().values()),
        "method_bytes": _size(core.methods.state_dict().values()),
        "optimizer_bytes": _size(
            value for state in trainer._trainer.optimizer.state.values() for value in state.values()
        ),
    }
    return found, held


def _size(values: Iterable[Any]) -> int:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def summarise(found: List[Traffic], sizes: Dict[str, int]) -> Dict[str, Any]:
    """Plain numbers: bytes at the start, bytes and calls a step (means over the steps)."""
    steps = found[1:]
    senders = sorted({name for step in steps for name in step.bytes})
    return {
        "start_bytes": sum(found[0].bytes.values()),
        "step": {
            name: {
                "bytes": sum(step.bytes[name] for step in steps) / len(steps),
                "calls": sum(step.calls[name] for step in steps) / len(steps),
            }
            for name in senders
        },
        **sizes,
    }


def format_traffic(found: Dict[str, Any]) -> str:
    """A Markdown table."""
    lines = ["| a rank sends in a step | calls | bytes |", "|---|---:|---:|"]
    rows = sorted(found["step"].items(), key=lambda item: -item[1]["bytes"])
    for name, row in rows:
        lines.append(f"| {name} | {row['calls']:.4g} | {row['bytes']:,.0f} |")
    total = sum(row["bytes"] for _, row in rows)
    lines.append(f"| all | {sum(row['calls'] for _, row in rows):.4g} | {total:,.0f} |")
    lines.append("")
    lines.append(f"At the start: {found['start_bytes']:,} bytes.")
    for name in ("student_bytes", "teacher_bytes", "method_bytes", "optimizer_bytes"):
        lines.append(f"A rank holds: {name.replace('_bytes', '')} {found[name]:,} bytes.")
    return "\n".join(lines)
