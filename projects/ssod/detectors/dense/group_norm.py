"""GroupNorm in the heads of RetinaNet and FCOS."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.meta_arch import retinanet
from torch import nn


def allow_group_norm() -> None:
    """Lets `MODEL.RETINANET.NORM` and `MODEL.FCOS.NORM` be "GN".

    Detectron2's head builds a norm of one channel to look at its type. PyTorch refuses one channel
    in 32 groups, so the head gets a norm of one group there. Nothing changes where PyTorch allows
    it.
    """
    original = retinanet.get_norm
    try:
        original("GN", 1)
    except ValueError:

        def get_norm(norm: Any, channels: int) -> Any:
            if norm == "GN" and channels < 32:
                return nn.GroupNorm(channels, channels)
            return original(norm, channels)

        retinanet.get_norm = get_norm
