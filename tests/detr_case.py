"""Tiny Deformable DETRs and RT-DETRs, for tests."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from tiny import SIZE, make_sample, tiny_cfg

KEYS = {"DeformableDETR": "DEFORMABLE_DETR", "RTDETRV2": "RT_DETR"}
REFINE = ("MODEL.DEFORMABLE_DETR.WITH_BOX_REFINE", True)
TWO_STAGE = (*REFINE, "MODEL.DEFORMABLE_DETR.TWO_STAGE", True)
GROUP_NORM = ("MODEL.RT_DETR.NORM", "GN")
# Every kind of model, by name.
KINDS: Dict[str, Tuple[str, Sequence[Any]]] = {
    "deformable": ("DeformableDETR", ()),
    "refine": ("DeformableDETR", REFINE),
    "two_stage": ("DeformableDETR", TWO_STAGE),
    "rt_detr": ("RTDETRV2", GROUP_NORM),
}


def detr_keys(name: str) -> List[Any]:
    """Keys and values that turn the tiny detector into this one."""
    node = f"MODEL.{KEYS[name]}"
    return [
        *("MODEL.META_ARCHITECTURE", name),
        *(f"{node}.NUM_CLASSES", 3, f"{node}.IN_FEATURES", ["p3", "p4", "p5"]),
        *(f"{node}.HIDDEN_DIM", 32, f"{node}.NHEADS", 4, f"{node}.DIM_FEEDFORWARD", 48),
        *(f"{node}.ENC_LAYERS", 1, f"{node}.DEC_LAYERS", 3, f"{node}.NUM_OBJECT_QUERIES", 20),
        *(f"{node}.DROPOUT", 0.0),
    ]


def detr_cfg(kind: str, *keys: Any) -> CfgNode:
    """A tiny model of `KINDS`, with further keys."""
    name, own = KINDS[kind]
    cfg = tiny_cfg()
    cfg.merge_from_list([*detr_keys(name), *own, *keys])
    return cfg


def build(kind: str, *keys: Any) -> Any:
    """Its model, the same each time."""
    torch.manual_seed(0)
    return build_model(detr_cfg(kind, *keys))


def inputs(*sizes: Tuple[int, int]) -> List[Dict[str, Any]]:
    """Labelled images of squares as Detectron2's loader gives them; two of the usual size if none
    is named.
    """
    found = []
    for index, size in enumerate(sizes or [(SIZE, SIZE)] * 2):
        sample = make_sample(index, True, size)
        found.append({"image": sample.weak, "instances": sample.instances})
    return found


def without_labels(batch: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The same images without boxes."""
    return [{**entry, "instances": entry["instances"][:0]} for entry in batch]
