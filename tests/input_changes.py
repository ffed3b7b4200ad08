"""Changes of a case's files, for rows of several subjects. See `input_case.Row`."""

from __future__ import annotations

from typing import Any

from input_case import Case, Change


def chain(*changes: Change) -> Change:
    def run(case: Case) -> None:
        for change in changes:
            change(case)

    return run


def declare(which: str, **keys: Any) -> Change:
    return lambda case: case.declare(which, **keys)
