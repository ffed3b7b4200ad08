"""Sums and means over ranks; with one process they cost nothing."""

from __future__ import annotations

from typing import List, Sequence

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


@torch.no_grad()
def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over ranks, in place, in one collective per dtype."""
    if comm.get_world_size() == 1:
        return
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        same: List[Tensor] = [tensor for tensor in tensors if tensor.dtype == dtype]
        device = _transport()
        flat = torch.cat([tensor.reshape(-1).to(device) for tensor in same])
        dist.all_reduce(flat)
        for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same])):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def broadcast_from_main(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by rank 0's, in place."""
    if comm.get_world_size() == 1:
        return
    for tensor in tensors:
        moved = tensor.to(_transport())
        dist.broadcast(moved, 0)
        tensor.copy_(moved)


def _transport() -> torch.device:
    """Where the backend wants tensors: NCCL knows only the GPU's."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@torch.no_grad()
def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Replaces each floating-point tensor by its mean over ranks, in place."""
    if comm.get_world_size() == 1:
        return
    all_reduce_sum(tensors)
    for tensor in tensors:
        tensor.div_(comm.get_world_size())
