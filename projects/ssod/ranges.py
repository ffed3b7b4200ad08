"""Ranges of numbers that a config key may have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List

from ssod.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers that a key, or each element of its list, may have.

    Attributes:
        low, high: the bounds.
        above, below: the number must be above `low`, or below `high`. Otherwise the bound itself
            is allowed too.
        whole: only whole numbers are allowed.
        hint: another way to reach the user's aim, for the message.
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

    def check(self, key: str, value: Any) -> None:
        """Raises `UserError` unless all numbers of a key's value are allowed."""
        for number in numbers_in(value):
            if not self.allows(number):
                where = "" if value is number else f" in {value}"
                whole = " (a whole number)" if self.whole and number != int(number) else ""
                raise UserError(f"{key} is {number}{where}: {self}{whole}.")

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


def items_in(value: Any) -> List[Any]:
    """The elements of a list and of the lists in it. Any other value is the only item."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in items_in(part)]
    return [value]


def is_number(value: Any) -> bool:
    """Whether the value is a number. True and False do not count as numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers_in(value: Any) -> List[float]:
    """The numbers among `items_in(value)`."""
    return [item for item in items_in(value) if is_number(item)]
