"""Medians over alternating steps: beside the lower bound, or of two configs."""

from __future__ import annotations

import resource
import statistics
import sys
from typing import Any, Dict, List

import torch

from ssod.benchmark.bench import Bench
from ssod.utils.progress import progress

WARM_UP = 5


def measure(bench: Bench, steps: int, lower_bound: bool) -> Dict[str, Any]:
    """Alternates our steps with the lower bound. The result is that of `--json`."""
    totals: List[float] = []
    bounds: List[Dict[str, float]] = []
    splits: List[Dict[str, float]] = []
    peak = 0
    for index in progress(range(WARM_UP + steps), "timing", unit="step"):
        if bench.cuda:
            torch.cuda.reset_peak_memory_stats()
        # On a CPU waiting between sections costs nothing. On a GPU the split needs a step, and a
        # bound, of its own.
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
        totals: seconds of each step. splits: seconds by section. bounds: of the lower bound, with
            "total"; may be empty.
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
    for index in progress(range(WARM_UP + steps), "timing", unit="step"):
        # The two take turns at going first, so that caches favour neither.
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
        if first.cuda:  # without waiting between parts their times mean nothing
            del result["split_seconds"]
    return {
        "first": {**found[0], **describe(first)},
        "second": {**found[1], **describe(second)},
        "first_over_second": found[0]["step_seconds"] / found[1]["step_seconds"],
    }


def describe(bench: Bench) -> Dict[str, Any]:
    """The machine and versions that the numbers depend on."""
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
