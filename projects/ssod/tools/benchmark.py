"""Times mutual-learning steps beside the least that they could cost; see docs/benchmark.md for what is in which number.

python -m ssod.tools.benchmark --config-file X.yaml [--compare OTHER.yaml] [--steps N] [--json] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional

from ssod import compat

compat.apply()

import torch  # noqa: E402
from detectron2.config import CfgNode  # noqa: E402
from detectron2.structures import Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ssod.engine.checkpoint import SSODCheckpointer  # noqa: E402
from ssod.engine.setup import load_config, run_cli, split_opts  # noqa: E402
from ssod.engine.trainer import SSODTrainer  # noqa: E402
from ssod.errors import UserError  # noqa: E402
from ssod.structures import Sample, Views  # noqa: E402

SECTIONS = ("data", "teacher", "student forward", "backward", "optimiser", "EMA")
WARM_UP = 5
_NEVER = 10**9


class Stopwatch:
    """Adds up the seconds that wrapped functions take, by section.

    Args:
        synchronize: called before every reading of the clock, so that it shows what the device has done.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.seconds: Dict[str, float] = {}
        self._synchronize = synchronize

    @contextlib.contextmanager
    def time(self, section: str) -> Iterator[None]:
        """Times what runs inside; sections must not be nested, except in a total."""
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
    """What Detectron2's own model gets to see of one of our steps.

    Attributes:
        student: its inputs, images on the CPU as a loader yields them, with gt_boxes and gt_classes. teacher: weak views.
    """

    student: List[Dict[str, Any]]
    teacher: List[Dict[str, Any]]


def plain_inputs(views: Views, unlabeled: List[Sample]) -> PlainInputs:
    """The images and targets of `views` as dataset dicts; images that methods add (`views.extra`) are left out."""
    student = []
    for view in (views.labeled, views.unlabeled):
        for image, target in zip(view.images, view.targets) if view else ():
            own = Instances(target.image_size)
            own.gt_boxes, own.gt_classes = target.gt_boxes, target.gt_classes
            student.append({"image": image.cpu(), "instances": own})
    return PlainInputs(student, [{"image": sample.weak.cpu()} for sample in unlabeled])


class Bench:
    """One config's trainer, driven step by step outside its own loop.

    Args:
        cfg: not frozen; changed so that the first step already is mutual learning and nothing but steps happens.
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
            split: wait for the device at the borders between sections; the total then is no honest one on a GPU.

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

        One training forward and backward of all of the student's images in one batch, and one inference of the weak
        unlabelled views; synchronised inside as the last step was. Preprocessing is included; loading, loss weights,
        methods, optimiser and average are not.
        """
        assert self.views is not None
        inputs = plain_inputs(self.views, self.core.last_batch.unlabeled)
        student, teacher = self.core.student, self.core.teacher
        watch = Stopwatch(self._synchronize_inside)
        self._synchronize()
        start = time.perf_counter()
        with self._plain_storage:
            with watch.time("student forward"), self.loop._autocast():
                losses = student(inputs.student)
            with watch.time("backward"):
                loss: Tensor = sum(losses.values())
                loss.backward()
            if inputs.teacher:
                with watch.time("teacher"), torch.no_grad(), self.loop._autocast():
                    teacher.inference(inputs.teacher, do_postprocess=False)
        self._synchronize()
        watch.seconds["total"] = time.perf_counter() - start
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


def measure(bench: Bench, steps: int, lower_bound: bool) -> Dict[str, Any]:
    """Alternates our steps with the lower bound; what `--json` prints."""
    totals: List[float] = []
    bounds: List[Dict[str, float]] = []
    splits: List[Dict[str, float]] = []
    peak = 0
    for index in range(WARM_UP + steps):
        if bench.cuda:
            torch.cuda.reset_peak_memory_stats()
        # Waiting at every border is free on a CPU; on a GPU the split takes a step (and a bound) of its own.
        seconds = bench.step(split=not bench.cuda)
        if bench.cuda:
            peak = max(peak, torch.cuda.max_memory_allocated())
        bound = bench.lower_bound() if lower_bound else {}
        parts = bench.step(split=True) if bench.cuda else seconds
        if bench.cuda and lower_bound:
            bound = {**bench.lower_bound(), "total": bound["total"]}
        if index >= WARM_UP:
            totals.append(seconds["total"])
            splits.append(parts)
            bounds.append(bound)
    if not bench.cuda:
        peak = _peak_of_process()
    found = summary(totals, splits, bounds if lower_bound else [])
    return {**found, "peak_memory_bytes": peak, **describe(bench)}


def summary(
    totals: List[float], splits: List[Dict[str, float]], bounds: List[Dict[str, float]]
) -> Dict[str, Any]:
    """Medians over steps, and their ratio.

    Args:
        totals: seconds of each step. splits: seconds by section. bounds: of the lower bound, with "total"; may be empty.
    """
    step = statistics.median(totals)
    bound = _medians(bounds)
    return {
        "step_seconds": step,
        "lower_bound_seconds": bound["total"] if bound else None,
        "step_over_lower_bound": step / bound["total"] if bound else None,
        "steps": len(totals),
        "split_seconds": {name: s for name, s in _medians(splits).items() if name != "total"},
        "lower_bound_split_seconds": {name: s for name, s in bound.items() if name != "total"},
    }


def _medians(rows: List[Dict[str, float]]) -> Dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]} if rows else {}


def compare(first: Bench, second: Bench, steps: int) -> Dict[str, Any]:
    """Alternates two configs step by step; ratio of the medians of their steps."""
    totals: List[List[float]] = [[], []]
    splits: List[List[Dict[str, float]]] = [[], []]
    for index in range(WARM_UP + steps):
        # Who goes first changes, so that neither always finds the caches as the other has left them.
        order = (0, 1) if index % 2 else (1, 0)
        for which in order:
            seconds = (first, second)[which].step(split=not first.cuda)
            if index >= WARM_UP:
                totals[which].append(seconds["total"])
                splits[which].append(seconds)
    found = [summary(t, s, []) for t, s in zip(totals, splits)]
    for result in found:
        for key in ("lower_bound_seconds", "step_over_lower_bound", "lower_bound_split_seconds"):
            del result[key]
        if first.cuda:  # without waiting at the borders the parts mean nothing
            del result["split_seconds"]
    return {
        "first": {**found[0], **describe(first)},
        "second": {**found[1], **describe(second)},
        "first_over_second": found[0]["step_seconds"] / found[1]["step_seconds"],
    }


def describe(bench: Bench) -> Dict[str, Any]:
    """What the numbers depend on besides the code."""
    device = bench.trainer.cfg.MODEL.DEVICE
    return {
        "methods": list(bench.trainer.cfg.SSOD.METHODS),
        "images_per_step": bench.images_per_step(),
        "device": torch.cuda.get_device_name() if bench.cuda else device,
        "threads": torch.get_num_threads(),
        "workers": bench.trainer.cfg.DATALOADER.NUM_WORKERS,
        "torch": torch.__version__,
    }


def _peak_of_process() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def table(found: Dict[str, Any]) -> str:
    """The result of `measure` for people."""
    step = found["step_seconds"]
    bound = found["lower_bound_split_seconds"]
    heading = f"{'':<18}{'step':>12}" + (f"{'lower bound':>15}" if bound else "")
    lines = [heading]
    for name, seconds in found["split_seconds"].items():
        own = f"{bound[name] * 1e3:12.1f} ms" if name in bound else ""
        lines.append(f"{name:<18}{seconds * 1e3:9.1f} ms{own}")
    total = f"{'all':<18}{step * 1e3:9.1f} ms"
    if bound:
        total += f"{found['lower_bound_seconds'] * 1e3:12.1f} ms"
    lines.append(f"{total}   (medians of {found['steps']})")
    if bound:
        lines.append(f"{'step / bound':<18}{found['step_over_lower_bound']:9.3f}")
    lines.append(f"{'peak memory':<18}{found['peak_memory_bytes'] / 2**20:9.0f} MiB")
    images = found["images_per_step"]
    lines.append(
        f"{images['student_labeled']} labelled + {images['student_unlabeled']} unlabelled views"
        + (f" + {images['student_extra']} of methods" if images["student_extra"] else "")
        + f", {images['teacher']} for the teacher; {found['device']}, {found['threads']} thread(s), "
        f"{found['workers']} worker(s), PyTorch {found['torch']}"
    )
    return "\n".join(lines)


def comparison_table(found: Dict[str, Any], names: List[str]) -> str:
    """The result of `compare` for people."""
    width = max(len(name) for name in names) + 2
    lines = []
    for name, key in zip(names, ("first", "second")):
        lines.append(f"{name:<{width}}{found[key]['step_seconds'] * 1e3:9.1f} ms a step")
        for section, seconds in found[key].get("split_seconds", {}).items():
            lines.append(f"  {section:<{width - 2}}{seconds * 1e3:9.1f} ms")
    lines.append(f"{'first / second':<{width}}{found['first_over_second']:9.3f}")
    return "\n".join(lines)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 1")
    return int(text)


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m ssod.tools.benchmark",
        description="Time mutual-learning steps, part by part, beside plain Detectron2 on the same images.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--compare", metavar="FILE", help="a second config: alternate the two and print the ratio"
    )
    parser.add_argument("--steps", type=_positive, default=30, help=f"after {WARM_UP} to warm up")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    parser.add_argument(
        "--no-lower-bound",
        action="store_true",
        help="only our steps, one after another as in training (peak memory and waiting for data are then training's)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for both configs, at the end"
    )
    args = parser.parse_args(argv)
    _log_to_stderr()
    opts = split_opts(args.opts)
    paths = [args.config_file] + ([args.compare] if args.compare else [])
    configs = [load_config(path, opts) for path in paths]
    with tempfile.TemporaryDirectory(prefix="ssod-benchmark-") as folder:
        benches = [Bench(cfg, f"{folder}/{index}") for index, cfg in enumerate(configs)]
        if args.compare:
            found = compare(benches[0], benches[1], args.steps)
            text = comparison_table(found, paths)
        else:
            found = measure(benches[0], args.steps, not args.no_lower_bound)
            text = table(found)
    print(json.dumps(found) if args.json else text)


def _log_to_stderr() -> None:
    """stdout is for the result; Detectron2's loggers would write there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    for name in ("ssod", "detectron2", "fvcore"):
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.setLevel(logging.INFO)  # lower, and the trainer would set up its own
        log.propagate = False


if __name__ == "__main__":
    run_cli(main)
