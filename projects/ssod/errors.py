"""Exceptions for what a user can mend, and what their messages share."""

from __future__ import annotations

import os
from typing import Iterable


class UserError(Exception):
    """Bad input: the message is one line that names the file, key or value and says how to mend it.

    Command-line entry points print it without a traceback and exit with status 1. Line breaks, as
    in a file's name, become blanks.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class TrainingDiverged(UserError, FloatingPointError):
    """A loss or prediction became infinite or NaN."""


def relative_to(path: str) -> str:
    """For messages about a relative path: which folder it is relative to; nothing for an absolute
    one.
    """
    return "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"


def first_names(names: Iterable[str], most: int = 10) -> str:
    """The first few names, and how many there are besides."""
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


class NothingLeftToTrain(UserError):
    """A checkpoint has more steps behind it than SOLVER.MAX_ITER asks for."""
