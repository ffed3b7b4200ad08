"""RoIAlign whose backward on a CPU is two matrix products instead of a loop over samples.

RoIAlign samples a grid, and bilinear interpolation on a grid is separable: with the rows of `Wy`
(P, H) and `Wx` (P, W) holding the mean interpolation weights of the samples in each bin,

    pooled = Wy F Wx^T      and so      dL/dF = sum over RoIs of Wy^T G Wx.

The sum over an image's RoIs and rows of bins is one product. Shapes: N images, R RoIs, C channels,
P bins a side, maps of H x W.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torchvision.ops import roi_align

# Products over the whole map do more arithmetic than sampling does, but 50 times faster. Beyond
# this many cells they are slower.
MAX_CELLS = 64 * 64


def interpolation_weights(
    start: Tensor, size: Tensor, bins: int, length: int, sampling_ratio: int
) -> Tensor:
    """How much each cell counts in each bin, along one axis.

    Args:
        start, size: (R,) of the RoIs, in cells, the half pixel of `aligned` taken off.
        bins: P. length: cells of the map along this axis. sampling_ratio: samples a bin; 0: as many
            as its size rounded up.

    Returns:
        (R, P, length); rows sum to 1 inside the map, and a sample more than a cell outside counts
        nothing.
    """
    bin_size = size / bins
    if sampling_ratio > 0:
        samples = torch.full_like(size, sampling_ratio)
    else:
        samples = torch.ceil(bin_size)  # 0 for a box without extent, which pools nothing
    most = int(samples.max().clamp(min=0)) if len(samples) else 0
    divisor = samples.clamp(min=1.0)[:, None]
    grid = torch.arange(most, device=start.device, dtype=start.dtype)
    inside_bin = (grid + 0.5) / divisor  # (R, S)
    steps = torch.arange(bins, device=start.device, dtype=start.dtype)
    position = (
        start[:, None, None] + (steps[:, None] + inside_bin[:, None]) * bin_size[:, None, None]
    )
    counts = (grid < samples[:, None])[:, None] & (position >= -1.0) & (position <= length)
    position = position.clamp(min=0.0)
    low = position.floor().clamp(max=length - 1)
    # The last cell has no next neighbour to interpolate with.
    share = torch.where(low >= length - 1, torch.zeros_like(position), position - low)
    weight = counts / divisor[:, None]
    index = low.long()
    found = start.new_zeros(len(start), bins, length)
    found.scatter_add_(2, index, (1.0 - share) * weight)
    found.scatter_add_(2, (index + 1).clamp(max=length - 1), share * weight)
    return found


def roi_align_backward(
    gradient: Tensor,
    rois: Tensor,
    shape: Tuple[int, int, int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The gradient of RoIAlign's input.

    Args:
        gradient: (R, C, P, P) of the pooled features. rois: (R, 5), image index and XYXY in pixels.
        shape: (N, C, H, W) of the input. scale: cells a pixel.

    Returns:
        (N, C, H, W).
    """
    number, channels, height, width = shape
    bins = gradient.shape[-1]
    boxes = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    size = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        size = size.clamp(min=1.0)
    across = interpolation_weights(boxes[:, 0], size[:, 0], bins, width, sampling_ratio)
    down = interpolation_weights(boxes[:, 1], size[:, 1], bins, height, sampling_ratio)
    found = gradient.new_zeros(shape)
    images = rois[:, 0].long()
    for image in range(number):
        rows = (images == image).nonzero()[:, 0]
        count = len(rows)
        if not count:
            continue
        # (r, P * C, P) @ (r, P, W): rows of bins outside, so that the next product needs no
        # transposition.
        own = gradient[rows].transpose(1, 2).reshape(count, bins * channels, bins)
        spread = torch.bmm(own, across[rows]).view(count * bins, channels * width)
        summed = down[rows].view(count * bins, height).t() @ spread  # (H, C * W)
        found[image] = summed.view(height, channels, width).transpose(0, 1)
    return found


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, maps: Tensor, rois: Tensor, bins: int, scale: float, ratio: int, aligned: bool
    ) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.settings = (tuple(maps.shape), scale, ratio, aligned)
        return roi_align(maps, rois, bins, scale, ratio, aligned)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:  # type: ignore[override]
        (rois,) = ctx.saved_tensors
        shape, scale, ratio, aligned = ctx.settings
        found = roi_align_backward(gradient, rois, shape, scale, ratio, aligned)
        return found, None, None, None, None, None


class FastROIAlign(ROIAlign):
    """Detectron2's `ROIAlign`, the same numbers forward, the same to rounding backward.

    Used where it is faster: float32 on a CPU, square bins, maps of at most `MAX_CELLS` cells.
    Elsewhere it is its base class.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Args: input (N, C, H, W); rois (R, 5). Returns: (R, C, P, P)."""
        pays = (
            input.device.type == "cpu"
            and input.requires_grad
            and torch.is_grad_enabled()
            and input.dtype == torch.float32
            and len(set(_pair(self.output_size))) == 1
            and input.shape[-1] * input.shape[-2] <= MAX_CELLS
        )
        if not pays:
            return super().forward(input, rois)
        return _RoIAlign.apply(
            input,
            rois.to(dtype=input.dtype),
            _pair(self.output_size)[0],
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )


def use_fast_roi_align(model: nn.Module) -> int:
    """Turns the model's `ROIAlign` layers into fast ones, in place.

    Returns:
        How many there were. A user's own subclass is left alone.
    """
    layers = [layer for layer in model.modules() if type(layer) is ROIAlign]
    for layer in layers:
        layer.__class__ = FastROIAlign
    return len(layers)
