"""The tables that `ssod.tools.next` writes: the list of images to label, and the scores of all."""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, List, Sequence

from ssod.utils.atomic import write_atomically


def number(value: float) -> str:
    """Four significant digits.

    Example:
        >>> number(0.123456)
        '0.1235'
    """
    return f"{value:.4g}"


def by_class(values: Sequence[float], names: Sequence[str]) -> str:
    """The classes with a value above 0, the highest first.

    Example:
        >>> by_class([0.0, 0.5, 0.75], ["a", "b", "c"])
        'c 0.75; b 0.5'
    """
    found = [(value, name) for value, name in zip(values, names) if value > 0]
    return "; ".join(
        f"{name} {number(value)}" for value, name in sorted(found, key=lambda p: -p[0])
    )


def write_table(path: str, rows: List[Dict[str, Any]], columns: Sequence[str]) -> None:
    """Writes a CSV, which appears as a whole; a row need not have every column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A file name that is no valid Unicode is written as its bytes are.
    content = text.getvalue().encode("utf-8", "surrogateescape")
    write_atomically(path, lambda file: file.write(content))
