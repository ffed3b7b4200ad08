"""The optional package `transformers`, imported when a model is built."""

from __future__ import annotations

import importlib
from typing import Any

from ssod.errors import UserError


def transformers_class(name: str, needed_by: str) -> Any:
    """A class of `transformers`.

    Args:
        name: such as "DeformableDetrConfig". needed_by: the model, for the message.

    Raises:
        UserError: the package is missing, or too old.
    """
    try:
        found = getattr(importlib.import_module("transformers"), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"MODEL.META_ARCHITECTURE {needed_by} needs transformers 5 or newer ({' '.join(str(error).split())}): "
            "pip install 'ssod[transformers]'"
        ) from None
    return found
