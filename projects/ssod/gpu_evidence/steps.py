"""Times mutual-learning steps of the papers' systems on drawn photographs, and ways to make them
faster.

Rows are independent. If one fails, for example out of memory, its reason is written down and the
next one follows.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from detectron2.config import CfgNode

from ssod.benchmark.bench import Bench
from ssod.benchmark.measure import describe, summary
from ssod.engine.setup import load_config
from ssod.gpu_evidence.scenes import Sizes, burn_in, draw_set, point_at
from ssod.gpu_evidence.variants import CHANNELS_LAST, VARIANTS

Row = Dict[str, Any]
# Methods of the digit scenes' full stack, on a ResNet-50.
FULL_STACK = "configs/digit_scenes/full_stack.yaml"
SYSTEMS: Dict[str, Tuple[str, Tuple[str, ...]]] = {
    "Unbiased Teacher": ("configs/coco_standard/unbiased_teacher_R_50_FPN_1pct.yaml", ()),
    "ACRST": ("configs/coco_standard/acrst_R_50_FPN_1pct.yaml", ()),
    "LSM": ("configs/coco_standard/lsm_R_50_FPN_1pct.yaml", ()),
    "CI-SSOD": ("configs/ci_ssod/ci_ssod_split1.yaml", ()),
    "full stack": ("configs/base_rcnn_fpn.yaml", ("full stack",)),
}
TYPES = {"float32": "", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Case:
    """One row: a system of `SYSTEMS`, a number type of `TYPES`, one of `VARIANTS`."""

    system: str
    dtype: str
    variant: str = "as it is"


# The most useful first, because the last ones are left out if time runs out.
CASES = (
    Case("Unbiased Teacher", "bf16"),
    Case("full stack", "bf16"),
    Case("LSM", "bf16"),
    Case("ACRST", "bf16"),
    Case("CI-SSOD", "bf16"),
    Case("Unbiased Teacher", "bf16", "teacher overlapped"),
    Case("Unbiased Teacher", "bf16", "channels last"),
    Case("Unbiased Teacher", "float32"),
    Case("Unbiased Teacher", "float32", "teacher overlapped"),
    Case("Unbiased Teacher", "float32", "channels last"),
    Case("Unbiased Teacher", "fp16"),
    Case("Unbiased Teacher", "bf16", "compiled"),
)
CPU_CASES = {
    ("float32", variant) for variant in ("as it is", "channels last", "teacher overlapped")
}
CPU_CASES |= {("bf16", "as it is")}


def config_of(case: Case, folder: str, sizes: Sizes, device: str) -> CfgNode:
    """The paper's config on drawn photographs, branching from the burn-in in `folder`."""
    path, extra = SYSTEMS[case.system]
    cfg = load_config(path)
    if extra:
        stack = load_config(FULL_STACK)
        cfg.SSOD = stack.SSOD.clone()
    point_at(cfg, folder, sizes, device)
    # The burn-in is short, so its teacher's scores are lower than a paper's.
    _lower_thresholds(cfg)
    cfg.SSOD.BURN_IN_CHECKPOINT = os.path.join(folder, "burn_in", "model_final.pth")
    cfg.SOLVER.AMP.ENABLED = bool(TYPES[case.dtype])
    cfg.SOLVER.AMP.DTYPE = TYPES[case.dtype] or "float16"
    if case.variant == CHANNELS_LAST:
        cfg.SSOD.FAST_OPS = (*cfg.SSOD.FAST_OPS, "channels_last")
    return cfg


def _lower_thresholds(cfg: CfgNode) -> None:
    cfg.merge_from_list(
        [
            *("SSOD.SCORE_THRESHOLD", 0.4, "SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD", 0.4),
            *("SSOD.SOFT_TEACHER.SCORE_THRESHOLD", 0.4, "SSOD.PIM.SCORE_THRESHOLD", 0.2),
            *("SSOD.GRADIENT_THRESHOLDING.BASE", 0.5, "SSOD.GRADIENT_THRESHOLDING.LOW", 0.4),
        ]
    )


def time_cases(
    cases: Sequence[Case], folder: str, sizes: Sizes, device: str, write: Callable[[Any], None]
) -> List[Row]:
    """Draws the photographs, burns in once, and times each case in a process of its own.

    Each case has a process of its own. A second trainer beside the first one's loader threads may
    never start, and a case without memory must not end the next one.

    Args:
        write: called after each row with all rows so far.

    Returns:
        Rows with "system", "dtype", "variant", and either the numbers of `time_case` or "error".
    """
    for seed, name in enumerate(("labeled", "unlabeled")):
        draw_set(folder, name, sizes, seed)
    start = time.perf_counter()
    found = in_process(_burn_in, (folder, sizes, device), sizes.case_seconds)
    if "error" in found:
        raise RuntimeError(f"The burn-in failed: {found['error']}")
    print(f"burn-in of {sizes.burn_in} steps: {time.perf_counter() - start:.0f} s", flush=True)
    rows: List[Row] = []
    for case in cases:
        row: Row = {"system": case.system, "dtype": case.dtype, "variant": case.variant}
        row.update(in_process(time_case, (case, folder, sizes, device), sizes.case_seconds))
        print(row, flush=True)
        rows.append(row)
        write({"rows": rows})
    return rows


def in_process(function: Callable[..., Row], args: Tuple[Any, ...], seconds: float) -> Row:
    """Calls `function` in a forked process, which has to be ready after so many seconds.

    Returns:
        What it returned, or {"error": why there is nothing}. This process must not have used the
        GPU: a fork cannot.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_send_result, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            return {"error": f"ended after {seconds:.0f} s"}
        return ours.recv()
    except EOFError:
        process.join()
        return {"error": f"exit status {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _send_result(pipe: Any, function: Callable[..., Row], args: Tuple[Any, ...]) -> None:
    try:
        found = function(*args)
    except Exception as error:  # any error ends this row only
        text = str(error).splitlines() or [""]
        found = {"error": f"{type(error).__name__}: {text[0]}"}
    pipe.send(found)


def _burn_in(folder: str, sizes: Sizes, device: str) -> Row:
    cfg = load_config(SYSTEMS["Unbiased Teacher"][0])
    point_at(cfg, folder, sizes, device)
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = device == "cuda", "bfloat16"
    return {"path": burn_in(cfg, os.path.join(folder, "burn_in"), sizes.burn_in)}


def time_case(case: Case, folder: str, sizes: Sizes, device: str) -> Row:
    """Times a step as training runs it, and a step and its lower bound in turn.

    Returns:
        "alone": medians of steps one after another, whose waiting for data and peak memory are
            training's; the keys of
        `ssod.benchmark.measure.summary`, from steps that alternate with the bound; "spread": of the
        steps alone, the least and the most; pseudo-labels an image.
    """
    bench = Bench(config_of(case, folder, sizes, device), os.path.join(folder, "out"))
    VARIANTS[case.variant](bench.trainer.core)
    for _ in range(sizes.warm_up):
        bench.step(split=False)
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    alone = [bench.step(split=False) for _ in range(sizes.steps)]
    peak = torch.cuda.max_memory_allocated() if bench.cuda else 0
    found: Row = {
        "alone_seconds": statistics.median(step["total"] for step in alone),
        "alone_spread": [min(s["total"] for s in alone), max(s["total"] for s in alone)],
        "data_wait_seconds": statistics.median(step["data"] for step in alone),
        "peak_memory_bytes": peak,
    }
    if case.variant == "as it is":
        totals, bounds, splits = [], [], []
        for index in range(1 + max(2, sizes.steps // 2)):
            seconds = bench.step(split=False)
            bound = bench.lower_bound()
            split = bench.step(split=True)
            # Waiting at the borders: only these parts can be compared with the step's.
            bound_parts = bench.lower_bound()
            if index:
                totals.append(seconds["total"])
                bounds.append({**bound_parts, "total": bound["total"]})
                splits.append(split)
        found.update(summary(totals, splits, bounds))
    found["pseudo_boxes_per_image"] = bench.storage.latest()["pseudo/boxes_per_image"][0]
    found.update(describe(bench))
    return found
