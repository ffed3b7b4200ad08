"""Ranges of numbers that a config key may have."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Allowed numbers, of a key or of each element of a list.

    Attributes:
        low, high: bounds. They are allowed values themselves unless `above` and `below` exclude
            them.
        whole: only whole numbers are allowed. hint: another way to reach the user's aim.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    hint: str = ""

    def allows(self, value: float) -> bool:
        if self.whole and value != int(value):
            return False
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def __str__(self) -> str:
        if math.isinf(self.low):
            bounds = f"a number up to {self.high}"
        elif math.isinf(self.high):
            bounds = f"a number above {self.low:g}" if self.above else f"{self.low:g} or more"
        else:
            start = f"above {self.low:g}" if self.above else f"from {self.low:g}"
            bounds = f"a number {start} to {'below ' if self.below else ''}{self.high:g}"
        return f"use {bounds}{self.hint}"


COUNT = Range(1, whole=True)
COUNT_OR_NONE = Range(0, whole=True)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)
DECAY = Range(0, 1, below=True)
