"""Exceptions that a user can put right, and helpers for their messages."""

from __future__ import annotations

import os
from typing import Iterable


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, in which file or key, and what to do.

    Command-line entry points print it without a traceback and exit with status 1. Line breaks, as
    in a file's name, become blanks.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class TrainingDiverged(UserError, FloatingPointError):
    """A loss or prediction became infinite or NaN."""


def relative_to(path: str) -> str:
    """Names the working directory for a message about a relative path; empty if it is absolute.

    Example:
        >>> relative_to("/data/images")
        ''
    """
    return "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"


def first_names(names: Iterable[str], most: int = 10) -> str:
    """Joins the first few names and counts the rest.

    Example:
        >>> first_names(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


class NothingLeftToTrain(UserError):
    """The checkpoint is already at or past SOLVER.MAX_ITER."""
