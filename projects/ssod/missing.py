"""Packages that are missing or broken, in one line instead of a trace.

Imports nothing but the standard library.
"""

from __future__ import annotations

import importlib.util
import sys
from types import TracebackType
from typing import Optional, Type

from ssod.errors import UserError

_ADVICE = "`python -m ssod.tools.doctor` says what is missing and how to install it"
# Import name and what people call it; imported late, so that they would be missed late.
_NEEDED = {"cv2": "OpenCV", "pycocotools": "pycocotools", "tensorboard": "TensorBoard"}


def explain_import(error: BaseException) -> Optional[str]:
    """One line about an import of another project's package that failed; None for anything else."""
    if not isinstance(error, ImportError) or (error.name or "").split(".")[0] == "ssod":
        return None
    return f"{' '.join(str(error).split())}: {_ADVICE}."


def explain_failed_imports() -> None:
    """Makes an uncaught import error end the program with one line."""

    def show(
        kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        line = explain_import(error)
        if line is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"error: {line}", file=sys.stderr)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = show


def require_packages() -> None:
    """Raises `UserError` if a package is missing that training needs at some later moment."""
    for name, title in _NEEDED.items():
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{title} is not installed: {_ADVICE}.")
