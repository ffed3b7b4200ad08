"""Non-maximum suppression and RoIAlign out of PyTorch's own operators.

torchvision's operators are compiled into torchvision, so a TorchScript file that calls them needs
it. A file with these needs PyTorch alone, in Python and in C++. The results are torchvision's to
rounding. Batches hold one image.

Shapes: N boxes, R RoIs, C channels, P bins a side, a map of H x W. Boxes are XYXY.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator
from unittest import mock

import torch
from detectron2.layers import ROIAlign
from torch import Tensor
from torch.nn.modules.utils import _pair
from torchvision.ops import boxes as torchvision_boxes

from ssod.detectors.fast_roi_align import interpolation_weights
from ssod.errors import UserError


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better box of IoU above the threshold suppresses, best first.

    Greedy suppression is the one solution of "a box stays if no better box that stays overlaps it".
    The loop repeats this sentence for all boxes at once until nothing changes. It ends after as
    many rounds as the longest chain of overlapping boxes has links, which are few.

    Args:
        boxes: (N, 4). scores: (N,).

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
        >>> nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    x0, y0, x1, y1 = boxes[order].unbind(dim=1)
    area = (x1 - x0) * (y1 - y0)
    width = torch.min(x1[:, None], x1).sub_(torch.max(x0[:, None], x0)).clamp_(min=0)
    height = torch.min(y1[:, None], y1).sub_(torch.max(y0[:, None], y0)).clamp_(min=0)
    shared = width.mul_(height)
    iou = shared / (area[:, None] + area).sub_(shared)
    # [i, j]: 1 where box i, the better one, suppresses box j if it stays itself.
    suppresses = (iou > iou_threshold).to(boxes.dtype).triu_(1)
    stays = torch.ones_like(scores, dtype=boxes.dtype)
    changed = len(order) > 0
    while changed:
        now = (torch.matmul(stays, suppresses) == 0).to(boxes.dtype)
        changed = not torch.equal(now, stays)
        stays = now
    return order[stays > 0]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` in each group apart.

    Args:
        boxes: (N, 4). scores: (N,). idxs: (N,) the group of each box, its class or level.

    Returns:
        Indices of the boxes that stay, best first.
    """
    if boxes.numel() == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    moved = boxes
    # Up to 1,000 boxes, torchvision moves each group to a place of its own and suppresses all at
    # once. The moved coordinates are rounded, and this decides near the threshold.
    if boxes.numel() <= 4000:
        moved = boxes + (idxs.to(boxes.dtype) * (boxes.max() + 1))[:, None]
    stays = torch.zeros_like(idxs, dtype=torch.bool)
    for group in torch.unique(idxs):
        members = torch.where(idxs == group)[0]
        stays[members[nms(moved[members], scores[members], iou_threshold)]] = True
    kept = torch.where(stays)[0]
    return kept[scores[kept].argsort(descending=True, stable=True)]


def roi_align(
    maps: Tensor, rois: Tensor, bins: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """RoIAlign with square bins, see `ssod.detectors.fast_roi_align` for the equation.

    Args:
        maps: (1, C, H, W). rois: (R, 5), image index (0) and XYXY in pixels. scale: cells a pixel.
        sampling_ratio: samples a bin and side; 0: as many as the bin's size rounded up.

    Returns:
        (R, C, P, P).
    """
    boxes = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    size = boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        size = size.clamp(min=1.0)
    height, width = maps.size(2), maps.size(3)
    down = interpolation_weights(boxes[:, 1], size[:, 1], bins, height, sampling_ratio)
    across = interpolation_weights(boxes[:, 0], size[:, 0], bins, width, sampling_ratio)
    top, bottom = _used(down)
    left, right = _used(across)
    pooled = torch.zeros(len(rois), maps.size(1), bins, bins, dtype=maps.dtype, device=maps.device)
    for index in range(len(rois)):
        # The RoI's own cells alone: it covers a small part of the map.
        t, b, x, y = int(top[index]), int(bottom[index]), int(left[index]), int(right[index])
        cells = maps[0, :, t:b, x:y]
        pooled[index] = torch.matmul(
            torch.matmul(down[index, :, t:b], cells), across[index, :, x:y].t()
        )
    return pooled


def _used(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The first cell and the one after the last that weights (R, P, L) use, (R,) each."""
    used = (weights != 0).any(dim=1)
    cells = torch.arange(used.size(1), device=used.device)
    first = torch.where(used, cells, used.size(1)).amin(dim=1)
    last = torch.where(used, cells + 1, 0).amax(dim=1)
    return torch.minimum(first, last), last


@contextmanager
def in_place() -> Iterator[None]:
    """Traces made inside call these functions where Detectron2 would call torchvision's."""
    suppress, align = torch.jit.script(batched_nms), torch.jit.script(roi_align)

    def forward(layer: ROIAlign, input: Tensor, rois: Tensor) -> Tensor:
        bins = _pair(layer.output_size)
        if bins[0] != bins[1]:
            raise UserError("RoIAlign with bins that are no square has no TorchScript form.")
        rois = rois.to(dtype=input.dtype)
        return align(input, rois, bins[0], layer.spatial_scale, layer.sampling_ratio, layer.aligned)

    with (
        mock.patch.object(torchvision_boxes, "batched_nms", suppress),
        mock.patch.object(ROIAlign, "forward", forward),
    ):
        yield
