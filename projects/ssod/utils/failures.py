"""Failures that are no fault of the program's, as one line that says what helps."""

from __future__ import annotations

from typing import Optional

import torch

from ssod.errors import UserError
from ssod.missing import explain_import

MEMORY_ADVICE = (
    "raise SOLVER.GRADIENT_ACCUMULATION_STEPS, set SOLVER.AMP.ENABLED True, or lower INPUT.MAX_SIZE_TRAIN and "
    "INPUT.MIN_SIZE_TRAIN"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch or OpenCV could not get memory, on the GPU or beside it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return isinstance(error, Exception) and any(
        part in words
        for part in ("can't allocate memory", "cannot allocate memory", "insufficient memory")
    )


def as_user_error(error: BaseException) -> Optional[UserError]:
    """The `UserError` that says what to do about an exception; None where nothing is known about
    it.
    """
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        return UserError(f"The memory is exhausted: {MEMORY_ADVICE}.")
    line = explain_import(error)
    return UserError(line) if line else None
