"""Faster replacements of single operations with the same results.

`SSOD.FAST_OPS` names those in use.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Sequence

import torch
from detectron2.layers import ROIAlign
from torch import nn

from ssod.detectors.fast_roi_align import FastROIAlign, use_fast_roi_align
from ssod.errors import UserError


def use_channels_last(model: nn.Module) -> None:
    """Convolutions keep their weights, and so their outputs, with the channels innermost."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# Name -> the function that changes the layers of a model in place.
FAST_OPS: Dict[str, Callable[[nn.Module], Any]] = {
    "roi_align": use_fast_roi_align,
    "channels_last": use_channels_last,
}


def use_fast_ops(model: nn.Module, names: Sequence[str]) -> None:
    """Replaces layers of `model` in place by faster ones that give the same results to rounding.

    Raises:
        UserError: a name of `SSOD.FAST_OPS` does not exist.
    """
    for name in names:
        if name not in FAST_OPS:
            raise UserError(
                f"SSOD.FAST_OPS: there is no operation {name!r}: use {', '.join(FAST_OPS)}, or () for none."
            )
        FAST_OPS[name](model)


@contextmanager
def plain_ops(*models: nn.Module) -> Iterator[None]:
    """Uses Detectron2's own operations inside of the `with` block. The layout stays."""
    layers = [layer for model in models for layer in model.modules() if type(layer) is FastROIAlign]
    for layer in layers:
        layer.__class__ = ROIAlign
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = FastROIAlign
