"""Measures how long a training takes to start, and how much memory its loader workers need.

The number of images can be chosen. `SSODTrainer` starts with the config's model and methods. The
images do not exist, so no image is read and no folder is listed.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Sequence
from unittest import mock

import numpy as np
from detectron2.config import CfgNode
from torch.utils.data import DataLoader, Dataset

from ssod.benchmark.process_memory import PeakMemory, own_memory
from ssod.benchmark.synthetic_sets import SetSizes, images_assumed, write_sets
from ssod.benchmark.view_times import view_seconds
from ssod.data.packed import PackedRecords
from ssod.engine import loading
from ssod.engine import trainer as trainer_module
from ssod.engine.hooks import PublishSnapshots
from ssod.methods import Method

_MIB = 2**20


@dataclass
class Stages:
    """Seconds of each part: on the clock, and of processor time in this process."""

    wall: Dict[str, float] = field(default_factory=dict)
    cpu: Dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
            self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return wrapped

    def rest(self, name: str, whole: str, parts: Sequence[str]) -> None:
        """Replaces the seconds of `whole` by those that none of `parts` took, as `name`."""
        for seconds in (self.wall, self.cpu):
            total = seconds.pop(whole)
            seconds[name] = max(0.0, total - sum(seconds.get(part, 0.0) for part in parts))


class _Reading(Dataset):
    """Item n reads random records of each stream, and returns the memory of its process."""

    def __init__(self, streams: Sequence[PackedRecords], reads: int) -> None:
        self.streams, self.reads = streams, reads

    def __getitem__(self, number: int) -> Dict[str, int]:
        rng = np.random.default_rng(number)
        for records in self.streams:
            for index in rng.integers(len(records), size=self.reads).tolist():
                records[index]
        return {"pid": os.getpid(), **own_memory()}


def simulation_config(cfg: CfgNode, sets: Dict[str, Dict[str, str]], sizes: SetSizes) -> CfgNode:
    """The config with the synthetic sets as its only data sets."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SSOD.DATASETS = CfgNode({name: CfgNode(entry) for name, entry in sets.items()})
    cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED = ("scale_labeled",), ("scale_unlabeled",)
    cfg.DATASETS.VAL = cfg.DATASETS.TEST = ()
    for node in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET, cfg.MODEL.FCOS):
        node.NUM_CLASSES = sizes.classes
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.MASK_ON = "cpu", "", False
    cfg.SSOD.PSEUDO_LABELS, cfg.SSOD.WRITERS, cfg.SEED = "", (), 1
    cfg.SSOD.BURN_IN_CHECKPOINT = ""
    return cfg


def measure(cfg: CfgNode, folder: str, sizes: SetSizes, workers: int, reads: int) -> Dict[str, Any]:
    """Writes the sets below `folder`, starts the config's training on them, and reads records in
    `workers` processes.

    Returns:
        Seconds of each stage, and bytes; see `format_scale`.
    """
    stages = Stages()
    sets = write_sets(folder, sizes)
    cfg = simulation_config(cfg, sets, sizes)
    cfg.OUTPUT_DIR = os.path.join(folder, "run")
    before = own_memory()
    with PeakMemory() as peak, images_assumed():
        trainer = _start(cfg, stages)
        _first_batch(trainer, stages)
        _first_snapshots(trainer, stages)
    streams = [trainer.data.labeled, trainer.data.unlabeled]
    after = own_memory()
    return {
        "labeled": len(streams[0]),
        "unlabeled": len(streams[1]),
        "boxes": int(round(sizes.boxes * sizes.labeled)),
        "methods": list(cfg.SSOD.METHODS),
        "file_bytes": {n: os.path.getsize(sets[n]["ANNOTATIONS"]) for n in sets},
        "seconds": stages.wall,
        "cpu_seconds": stages.cpu,
        "total_seconds": sum(stages.wall.values()),
        "record_bytes": {"labeled": streams[0].nbytes, "unlabeled": streams[1].nbytes},
        "process_bytes": {"before": before["rss"], "after": after["rss"], "peak": peak.bytes},
        "workers": _workers(streams, workers, reads),
        "reads": reads,
        "view_cpu_seconds": view_seconds(cfg, folder),
    }


def _start(cfg: CfgNode, stages: Stages) -> Any:
    build = trainer_module.build_methods
    parts = ["hashes of the files", "labelled records", "unlabelled records", "classes"]

    def build_timed(cfg: CfgNode) -> Any:
        methods = build(cfg)
        for name, method in methods.items():
            parts.append(f"{name}.setup")
            assert isinstance(method, Method)
            method.setup = stages.timed(parts[-1], method.setup)  # type: ignore[method-assign]
        return methods

    check = stages.timed(parts[0], trainer_module.check_split_hashes)
    with contextlib.ExitStack() as stack:
        for module, name, call in (
            (trainer_module, "check_split_hashes", check),
            (trainer_module, "build_methods", build_timed),
            (loading, "load_labeled", stages.timed(parts[1], loading.load_labeled)),
            (loading, "load_unlabeled", stages.timed(parts[2], loading.load_unlabeled)),
            (loading, "check_classes", stages.timed(parts[3], loading.check_classes)),
        ):
            stack.enter_context(mock.patch.object(module, name, call))
        with stages.part("whole"):
            trainer = trainer_module.SSODTrainer(cfg)
    stages.rest("model, optimiser, hooks", "whole", parts)
    return trainer


def _first_batch(trainer: Any, stages: Stages) -> None:
    with stages.part("samplers"):
        loader = trainer._loader_from(None, trainer.mutual_from)
    with stages.part("first batch's order"):
        next(iter(loader.sampler))


def _first_snapshots(trainer: Any, stages: Stages) -> None:
    trainer.iter = 0
    hook = next(hook for hook in trainer._hooks if isinstance(hook, PublishSnapshots))
    with stages.part("first snapshots"):
        hook.after_step()


def _workers(streams: Sequence[PackedRecords], workers: int, reads: int) -> List[Dict[str, int]]:
    """Memory of each worker: after 1 % of `reads` records of each stream, and after all of them."""
    few = max(1, reads // 100)
    found: List[Dict[str, int]] = []
    for count in (few, reads):
        loader: DataLoader = DataLoader(
            _Reading(streams, count),
            batch_size=None,
            sampler=list(range(workers)),
            num_workers=workers,
            collate_fn=_same,
        )
        found += [{**item, "reads": count} for item in loader]
    return found


def _same(value: Any) -> Any:
    return value


def format_scale(found: Dict[str, Any]) -> str:
    """The table that the command prints."""
    from tabulate import tabulate

    rows = [
        [name, f"{seconds:.1f}", f"{found['cpu_seconds'][name]:.1f}"]
        for name, seconds in found["seconds"].items()
    ]
    rows.append(
        ["all", f"{found['total_seconds']:.1f}", f"{sum(found['cpu_seconds'].values()):.1f}"]
    )
    process, record = found["process_bytes"], found["record_bytes"]
    memory = [
        [
            f"records of {name} images".replace("labeled", "labelled"),
            record[name] / _MIB,
            record[name] / max(1, found[name]),
        ]
        for name in ("labeled", "unlabeled")
    ]
    memory += [[f"main process, {when}", process[when] / _MIB, None] for when in process]
    for item in found["workers"]:
        for key in ("private", "pss"):
            label = f"worker {item['pid']} after {item['reads']:,} records a stream, {key}"
            memory.append([label, item[key] / _MIB, None])
    views = [f"{1000 * found['view_cpu_seconds'][stream]:.0f} ms" for stream in record]
    head = f"{found['labeled']:,} labelled and {found['unlabeled']:,} unlabelled images\n\n"
    return (
        head
        + tabulate(rows, headers=["start", "seconds", "CPU seconds"], disable_numparse=True)
        + "\n\n"
        + tabulate(memory, headers=["memory", "MiB", "bytes an image"], floatfmt=".1f")
        + f"\n\nBoth views of a drawn image of 640 x 480 pixels: {views[0]} of a processor (labelled), "
        f"{views[1]} (unlabelled)."
        + "\nNot measured: listing folders, reading images, evaluation sets."
    )
