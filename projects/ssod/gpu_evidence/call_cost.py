"""Measures the cost of one more call of the backbone, in pixels of padding that take as long
(`CALL_COST_PIXELS`).
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Dict, List

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
    """Measures the cost of a call and the cost of its pixels.

    On a GPU a call takes the longer of launching its kernels and computing them. So one more call
    costs at most what the smallest batch takes, and a pixel costs what it adds between the two
    largest batches.

    Returns:
        For "float32" and "bf16": "points" as [pixels, seconds], "call_seconds",
        "seconds_per_megapixel", and "call_cost_pixels", their ratio.
    """
    found: Dict[str, Any] = {}
    cfg: CfgNode = load_config(config)
    cfg.MODEL.DEVICE = device
    backbone = build_backbone(cfg).to(device)
    for name in ("float32", "bf16"):
        points: List[List[float]] = []
        with torch.autocast(device, dtype=torch.bfloat16, enabled=name == "bf16"):
            for count, side in sizes.call_cost_batches:
                seconds = seconds_of_call(backbone, side, count, 5)
                points.append([count * side * side, seconds])
        points.sort()
        (small, before), (large, after) = points[-2:]
        slope = (after - before) / (large - small)
        constant = points[0][1]
        found[name] = {
            "points": points,
            "call_seconds": constant,
            "seconds_per_megapixel": slope * 1e6,
            "call_cost_pixels": constant / slope,
        }
    return found
