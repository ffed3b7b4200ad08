"""The gradient decoupled layer (DeFRCN, section 3.2): forward a channel-wise affine map, backward a
part of the gradient.

Shapes: N images, C channels.
"""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor, nn


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None]:
        return gradient * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """`x` itself; its gradient is multiplied by `scale`."""
    return _ScaleGradient.apply(x, scale)


class ChannelAffine(nn.Module):
    """`x * weight + bias`, one of each a channel; the identity at first.

    Args:
        channels: C. gradient_scale: the part of the gradient that goes on to where `x` came from.
    """

    def __init__(self, channels: int, gradient_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gradient_scale = gradient_scale

    def forward(self, levels: Sequence[Tensor]) -> List[Tensor]:
        """(N, C, h, w) maps of all levels -> the same; the levels share one affine map."""
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        scaled = [scale_gradient(level, self.gradient_scale) for level in levels]
        return [(level * weight + bias).to(level.dtype) for level in scaled]
