"""Config values that a user may write, and what must come of each. See `input_case.Row`."""

from __future__ import annotations

from typing import Any, Callable, List

from input_case import Case, Row


def opts(*pairs: str) -> Callable[[Case], Any]:
    """KEY VALUE pairs on the command line."""
    return lambda case: case.opts.extend(pairs)


ROWS: List[Row] = [
    Row("steps 0", opts("SOLVER.MAX_ITER", "0"), refused=("SOLVER.MAX_ITER is 0", "use 1 or more")),
]
