"""Lowers the score threshold of any model while it labels."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

from torch import nn

# The names that Detectron2 and projects built on it give to the lowest score of a detection.
NAMES = (
    "test_score_thresh",
    "test_score_threshold",
    "score_thresh",
    "score_threshold",
    "score_thresh_test",
    "box_score_thresh",
)


@contextmanager
def lowered_scores(model: nn.Module, floor: float) -> Iterator[None]:
    """Inside of the `with` block, every score threshold of the model and its parts is at most
    `floor`.
    """
    before: List[Tuple[Any, str, float]] = []
    for module in model.modules():
        for name in NAMES:
            value = vars(module).get(name)
            if isinstance(value, float) and value > floor:
                before.append((module, name, value))
                setattr(module, name, floor)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
