"""How much of a box is left to see below others, exactly.

Shapes: N boxes, M occluders, XYXY.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_fraction(boxes: Tensor, occluders: Tensor) -> Tensor:
    """The share of each box's area that the *union* of the occluders leaves uncovered (ACRST, Eq. 7).

    All edges together cut the plane into cells, each of which is covered or not; the areas of a box's free cells add up.
    A box that is covered entirely gets exactly 0 and one that nothing touches exactly 1.

    Args:
        boxes: (N, 4). occluders: (M, 4), in the same pixels. Those without area cover nothing.

    Returns:
        (N,) in [0, 1], of the boxes' dtype (float32 for integers); 0 for boxes without area. No host synchronisation.
    """
    own, above = boxes.double(), occluders.to(boxes.device).double()
    # Duplicate edges only add cells of no width.
    edges = torch.cat([own, above])
    xs, ys = edges[:, 0::2].flatten().sort().values, edges[:, 1::2].flatten().sort().values

    def spans(rows: Tensor, cuts: Tensor, low: int, high: int) -> Tensor:
        """(rows, cells): 1 where the row's interval holds the cell."""
        return (
            (rows[:, low, None] <= cuts[None, :-1]) & (cuts[None, 1:] <= rows[:, high, None])
        ).double()

    covered = (spans(above, ys, 1, 3).T @ spans(above, xs, 0, 2)) > 0  # (cells y, cells x)
    x_parts = spans(own, xs, 0, 2) * xs.diff()
    y_parts = spans(own, ys, 1, 3) * ys.diff()
    # The same sums with and without the covered cells, so that 0 and 1 come out exact.
    free = ((y_parts @ (~covered).double()) * x_parts).sum(dim=1)
    whole = ((y_parts @ torch.ones_like(covered).double()) * x_parts).sum(dim=1)
    fraction = torch.where(whole > 0, free / whole, 0.0)
    return fraction.to(boxes.dtype if boxes.is_floating_point() else torch.float32)
