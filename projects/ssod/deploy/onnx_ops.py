"""Non-maximum suppression by groups as one ONNX operator.

ONNX suppresses in each class apart, if boxes come with a score a class. torchvision's traced form
moves each class to a place of its own instead. That rounds the coordinates, and boxes of
RetinaNet's thousands of candidates then stay or go otherwise than in PyTorch.

Shapes: N boxes, G groups. Boxes are XYXY.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

# No detector gives such a score, so it marks "not of this group".
_NONE = -3e38


class _GroupedNMS(torch.autograd.Function):
    """ONNX's NonMaxSuppression; PyTorch runs `forward` while it traces.

    boxes (1, N, 4) and scores (1, G, N), `_NONE` where a box is not of the group, give the indices
    of the boxes that stay, in no particular order.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:  # type: ignore[override]
        kept = [torch.zeros(0, dtype=torch.int64)]
        for row in scores[0]:
            members = torch.where(row > _NONE)[0]
            kept.append(members[nms(boxes[0, members], row[members], iou_threshold)])
        return torch.cat(kept)

    @staticmethod
    def symbolic(graph: Any, boxes: Any, scores: Any, iou_threshold: float) -> Any:
        def constant(value: Any, dtype: torch.dtype) -> Any:
            return graph.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        found = graph.op(  # (kept, 3): image, group, box
            "NonMaxSuppression",
            boxes,
            scores,
            constant([2**62], torch.int64),  # boxes of a group at most: no limit
            constant([iou_threshold], torch.float32),
            constant([_NONE], torch.float32),
        )
        return graph.op("Gather", found, constant(2, torch.int64), axis_i=1)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`torchvision.ops.batched_nms` in a form that ONNX can hold, for any number of boxes.

    Args:
        boxes: (N, 4). scores: (N,). idxs: (N,) the group of each box, its class or level.

    Returns:
        Indices of the boxes that stay, best first.
    """
    zero = torch.zeros(1, dtype=boxes.dtype, device=boxes.device)  # the maximum of no box
    # As torchvision does it up to 1,000 boxes, see `torch_ops.batched_nms`.
    few = (torch.ones_like(scores).sum() <= 1000).to(boxes.dtype)
    offset = idxs.to(boxes.dtype) * (torch.cat([boxes.flatten(), zero]).max() + 1) * few
    count = torch.cat([idxs.to(torch.int64), zero.to(torch.int64)]).max() + 1
    groups = torch.arange(count, device=boxes.device)  # type: ignore[call-overload]
    of_group = groups[:, None] == idxs[None, :]
    by_group = torch.where(of_group, scores[None, :], torch.full_like(scores, _NONE)[None, :])
    kept = _GroupedNMS.apply((boxes + offset[:, None])[None], by_group[None], iou_threshold)
    return kept[scores[kept].argsort(descending=True)]
