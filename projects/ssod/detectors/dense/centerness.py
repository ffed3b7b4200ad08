"""FCOS's centerness: how near a location is to the centre of its box."""

from __future__ import annotations

from detectron2.modeling.box_regression import Box2BoxTransformLinear
from torch import Tensor


def centerness_targets(transform: Box2BoxTransformLinear, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Equation 3 of FCOS: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).

    Args:
        anchors: (F, 4) of the locations, whose centres count. boxes: (F, 4) around these centres.

    Returns:
        (F,) in 0 to 1; 1 in the middle of the box.

    Example:
        >>> import torch
        >>> from detectron2.modeling.box_regression import Box2BoxTransformLinear
        >>> box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        >>> centerness_targets(Box2BoxTransformLinear(), torch.tensor([[1.0, 3.0, 3.0, 5.0]]), box)
        tensor([0.5774])
    """
    sides = transform.get_deltas(anchors, boxes)
    across, down = sides[:, [0, 2]], sides[:, [1, 3]]
    share = across.amin(dim=1) / across.amax(dim=1) * (down.amin(dim=1) / down.amax(dim=1))
    return share.clamp(min=0.0).sqrt()
