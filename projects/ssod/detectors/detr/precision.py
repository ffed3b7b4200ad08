"""Parts that compute in single precision under autocast.

bfloat16 knows 256 numbers between 0.5 and 1: boxes of a 1,000 pixel image would be rounded to 2 to
4 pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """A linear layer that autocast leaves in single precision."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), float32."""
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.float(), self.weight, self.bias)


def use_float32(head: nn.Module) -> None:
    """Makes every linear layer in `head` a `Float32Linear`, in place."""
    for layer in head.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Float32Linear


def output_float32(module: nn.Module) -> None:
    """Converts the output of `module`, a tensor or an object with `last_hidden_state`, to
    float32.

    Later parts, such as the grid of the encoder's proposals, take their number type from it.
    """
    module.register_forward_hook(_to_float32)


def _to_float32(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    output.last_hidden_state = output.last_hidden_state.float()
    return output
