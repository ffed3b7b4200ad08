"""Chooses the number type in which a step computes (`SOLVER.AMP`)."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Callable, Optional, Tuple

import torch
from detectron2.config import CfgNode

from ssod.errors import UserError

logger = logging.getLogger(__name__)
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def amp_dtype(cfg: CfgNode) -> Optional[torch.dtype]:
    """`SOLVER.AMP.DTYPE` if `SOLVER.AMP.ENABLED`, otherwise None, which means float32.

    "auto" is bfloat16 if the device has instructions for it. Otherwise it is float16 on a GPU, and
    float32 on a CPU, because the other types are slower there.

    Raises:
        UserError: the type does not exist.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name != "auto":
        if name not in _TYPES:
            raise UserError(f"SOLVER.AMP.DTYPE is {name!r}: use 'auto', 'float16' or 'bfloat16'.")
        return _TYPES[name]
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        found: Optional[torch.dtype] = (
            torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
        )
    else:
        found = torch.bfloat16 if cpu_has_bfloat16() else None
    logger.info(f"SOLVER.AMP.DTYPE auto: {found or torch.float32}")
    return found


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX), according to
    PyTorch.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def autocast(cfg: CfgNode) -> Tuple[Callable[[], Any], bool]:
    """Returns the autocast context, and whether gradients need scaling."""
    dtype = amp_dtype(cfg)
    if dtype is None:
        return contextlib.nullcontext, False
    device = torch.device(cfg.MODEL.DEVICE).type
    return lambda: torch.autocast(device, dtype=dtype), dtype == torch.float16
