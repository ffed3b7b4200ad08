"""Measures the time of one image in each form of a model."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import torch

from ssod.utils.progress import progress

Runner = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Latency:
    """The times of one form of a model.

    Attributes:
        seconds: each image's time, a number a round and image.
    """

    seconds: List[float]

    def quantile(self, share: float) -> float:
        """The time that this share of the images does not exceed, in seconds."""
        return float(np.quantile(self.seconds, share))

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def measure(
    runners: Dict[str, Runner], images: Sequence[np.ndarray], rounds: int
) -> Dict[str, Latency]:
    """Times runners on the same images.

    They take turns, so that other work on the machine slows all of them alike.

    Each first sees every image twice, untimed: PyTorch compiles TorchScript in the first runs.

    Args:
        runners: name -> what takes uint8 (H, W, 3) RGB; scaling the image is part of it.
        images: read already. rounds: how often each image is timed.
    """
    for run in runners.values():
        for image in [*images, *images]:
            run(image)
    seconds: Dict[str, List[float]] = {name: [] for name in runners}
    for number in progress(range(rounds), "timing", unit="round"):
        for image in images:
            # Another one goes first in each round.
            names = list(runners)[number % len(runners) :] + list(runners)[: number % len(runners)]
            for name in names:
                start = time.perf_counter()
                runners[name](image)
                seconds[name].append(time.perf_counter() - start)
    return {name: Latency(values) for name, values in seconds.items()}


def table(found: Dict[str, Latency]) -> str:
    """Markdown: milliseconds an image, and the median relative to the first row's.

    Example:
        >>> print(table({"A": Latency([0.02, 0.04]), "B": Latency([0.015, 0.015])}))
        | | median | 10 % | 90 % | relative |
        |---|---:|---:|---:|---:|
        | A | 30.0 ms | 22.0 ms | 38.0 ms | 1.00 |
        | B | 15.0 ms | 15.0 ms | 15.0 ms | 0.50 |
    """
    first = next(iter(found.values())).median
    lines = ["| | median | 10 % | 90 % | relative |", "|---|---:|---:|---:|---:|"]
    for name, row in found.items():
        times = (row.median, row.quantile(0.1), row.quantile(0.9))
        cells = [f"{seconds * 1e3:.1f} ms" for seconds in times]
        lines.append(f"| {name} | {' | '.join(cells)} | {row.median / first:.2f} |")
    return "\n".join(lines)


def machine() -> str:
    """The machine and versions that the numbers depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    name = platform.processor() or platform.machine()
    return (
        f"{name}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, PyTorch {torch.__version__}, load average "
        f"{load:.1f} (others' work shows in the times from about {os.cpu_count()} on)"
    )
