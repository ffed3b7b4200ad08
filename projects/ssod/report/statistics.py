"""The few statistics of a results table.

All of them skip NaN, which is what Detectron2 reports where there is nothing to measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, Mapping, Optional


@dataclass(frozen=True)
class Estimate:
    """A mean of `count` numbers. `mean` is None without any, `spread` with fewer than two."""

    mean: Optional[float]
    spread: Optional[float]
    count: int


def mean_and_deviation(values: Iterable[float]) -> Estimate:
    """Mean and sample standard deviation (divisor n - 1) of the finite values."""
    finite = [float(value) for value in values if math.isfinite(value)]
    count = len(finite)
    if count == 0:
        return Estimate(None, None, 0)
    mean = math.fsum(finite) / count
    if count == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in finite) / (count - 1)
    return Estimate(mean, math.sqrt(variance), count)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate:
    """Mean of `values[seed] - baseline[seed]` over the seeds that both have; its spread is the
    standard error.

    Pairing removes effects that a seed has on both runs, such as a lucky initialisation.
    """
    shared = sorted(set(values) & set(baseline))
    differences = mean_and_deviation(values[seed] - baseline[seed] for seed in shared)
    if differences.spread is None:
        return differences
    error = differences.spread / math.sqrt(differences.count)
    return Estimate(differences.mean, error, differences.count)


def gap_closed(
    value: Optional[float], baseline: Optional[float], upper: Optional[float]
) -> Optional[float]:
    """The share of the gap from `baseline` to `upper` that `value` closes, in percent.

    None where one of the three is missing, or where `upper` is not above `baseline`, so that there
    is no gap.
    """
    if value is None or baseline is None or upper is None or upper <= baseline:
        return None
    return 100 * (value - baseline) / (upper - baseline)
