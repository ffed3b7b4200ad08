"""What one more call of the backbone costs, in pixels of padding that take as long (`CALL_COST_PIXELS`)."""

from __future__ import annotations

import statistics
import time
from typing import Any, Dict, List

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ssod.engine.setup import load_config
from ssod.gpu_evidence.scenes import Sizes


def seconds_of_call(backbone: torch.nn.Module, side: int, count: int, repeats: int) -> float:
    """Median seconds of one forward and backward of `count` square images."""
    device = next(backbone.parameters()).device
    images = torch.rand(count, 3, side, side, device=device)
    found = []
    for _ in range(2 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        loss = sum(maps.float().mean() for maps in backbone(images).values())
        loss.backward()  # type: ignore[union-attr]
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[2:])


def call_cost(
    sizes: Sizes, device: str, config: str = "configs/base_rcnn_fpn.yaml"
) -> Dict[str, Any]:
    """Fits seconds = a + b * pixels over single images of several sizes.

    Returns:
        For "float32" and "bf16": the points as [pixels, seconds], "call_seconds" a, "seconds_per_megapixel", and
        "call_cost_pixels" a / b.
    """
    found: Dict[str, Any] = {}
    cfg: CfgNode = load_config(config)
    cfg.MODEL.DEVICE = device
    backbone = build_backbone(cfg).to(device)
    for name in ("float32", "bf16"):
        points: List[List[float]] = []
        with torch.autocast(device, dtype=torch.bfloat16, enabled=name == "bf16"):
            for side in sizes.call_cost_sides:
                points.append([side * side, seconds_of_call(backbone, side, 1, 7)])
        slope, constant = np.polyfit(*np.array(points).T, 1)
        found[name] = {
            "points": points,
            "call_seconds": float(constant),
            "seconds_per_megapixel": float(slope) * 1e6,
            "call_cost_pixels": float(constant / slope),
        }
    return found
