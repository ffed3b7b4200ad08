"""The gradient decoupled layer (DeFRCN, section 3.2). Forward it is a channel-wise affine map.
Backward it passes on a part of the gradient.

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
    """Returns `x` itself. Its gradient is multiplied by `scale`.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> scale_gradient(x, 0.1).square().backward()
        >>> round(float(x.grad), 4)
        0.6
    """
    return _ScaleGradient.apply(x, scale)


class ChannelAffine(nn.Module):
    """`x * weight + bias`, with one weight and one bias for each channel. It starts as the
    identity.

    Args:
        channels: C. gradient_scale: the part of the gradient that is passed on to `x`.
    """

    def __init__(self, channels: int, gradient_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gradient_scale = gradient_scale

    def forward(self, levels: Sequence[Tensor]) -> List[Tensor]:
        """(N, C, h, w) maps of all levels -> the same. The levels share one affine map."""
        weight, bias = self.weight[:, None, None], self.bias[:, None, None]
        scaled = [scale_gradient(level, self.gradient_scale) for level in levels]
        return [(level * weight + bias).to(level.dtype) for level in scaled]
