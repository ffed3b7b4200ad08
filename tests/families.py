"""Tiny models of every detector family, as KEY VALUE overrides of `tiny.tiny_cfg`."""

from __future__ import annotations

from typing import Any, Dict, List

from detr_case import KINDS, detr_keys
from own_detector import OWN
from region_rig import KEYS as REGIONS
from runs import DENSE, SSD

TINY: Dict[str, List[Any]] = {
    **REGIONS,
    **DENSE,
    "Deformable DETR": [*detr_keys("DeformableDETR"), *KINDS["deformable"][1]],
    "RT-DETR v2": [*detr_keys("RTDETRV2"), *KINDS["rt_detr"][1]],
    "SSD": SSD,
    "any other model": OWN,
}
