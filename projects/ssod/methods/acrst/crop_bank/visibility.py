"""Computes exactly which share of a box or mask stays visible under other objects.

Shapes: N boxes, M occluders, XYXY; images of (H, W).
"""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

from ssod.data.masks import tight_boxes


def visible_fraction(boxes: Tensor, occluders: Tensor) -> Tensor:
    """The share of each box's area that the *union* of the occluders leaves uncovered (ACRST, Eq.
    7).

    The occluders' edges cut the plane into cells, and each cell is covered or not. The result adds
    up the parts of a box in free cells. A box that is covered entirely gets exactly 0. A box that
    nothing touches gets exactly 1.

    Args:
        boxes: (N, 4). occluders: (M, 4), in the same pixels. Those without area cover nothing.

    Returns:
        (N,) in [0, 1], of the boxes' dtype (float32 for integers), 0 for boxes without area. The
        computation does not synchronise with the host.

    Example:
        >>> box, occluder = [0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0]
        >>> visible_fraction(torch.tensor([box]), torch.tensor([occluder]))
        tensor([0.5000])
    """
    own = boxes.double().reshape(-1, 1, 2, 2)  # (N, 1, low or high, axis)
    above = occluders.to(own).reshape(-1, 1, 2, 2)
    far = own.new_full((1, 2), torch.inf)
    cuts = torch.cat([-far, above.reshape(-1, 2).sort(dim=0).values, far])  # (cells + 1, axis)
    low, high = cuts[:-1], cuts[1:]
    spans = ((above[:, :, 0] <= low) & (high <= above[:, :, 1])).double()  # (M, cells, axis)
    free = spans[:, :, 1].T @ spans[:, :, 0] == 0  # (cells y, cells x)
    parts = (own[:, :, 1].minimum(high) - own[:, :, 0].maximum(low)).clamp(min=0)
    # Both sums are computed in the same way, with and without the covered cells, so that 0 and 1
    # are exact.
    both = torch.stack([free, torch.ones_like(free)]).double()
    left, whole = ((parts[:, :, 1] @ both) * parts[:, :, 0]).sum(dim=2)
    fraction = torch.where(whole > 0, left / whole, 0.0)
    return fraction.to(boxes.dtype if boxes.is_floating_point() else torch.float32)


def hide_pixels(
    boxes: Tensor, masks: Tensor, covered: Tensor, occluders: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """Reduces the masks and boxes of objects to the pixels that others leave uncovered.

    Args:
        boxes: (N, 4). masks: bool (N, H, W). covered: bool (H, W).
        occluders: (M, 4) boxes of the covering objects, for objects whose mask is unknown (empty).

    Returns:
        (N, 4) boxes, whose sides move inwards as far as the mask's outermost pixels do; bool (N, H,
        W) masks; (N,) the share of the mask's pixels that is left.
    """
    left = masks & ~covered
    before, after = (m.flatten(1).sum(dim=1) for m in (masks, left))
    by_box = visible_fraction(boxes, occluders)
    fraction = torch.where(before > 0, after / before.clamp(min=1), by_box)
    moved = tight_boxes(left) - tight_boxes(masks)
    boxes = torch.where((after > 0)[:, None], boxes + moved.to(boxes.dtype), boxes)
    return boxes, left, fraction.to(by_box.dtype)
