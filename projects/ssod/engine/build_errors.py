"""Explains in terms of config keys why a model cannot be built."""

from __future__ import annotations

import difflib
import os
import re
import traceback
from types import TracebackType
from typing import Any, Iterator, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

# fvcore's message for a name that a registry does not have.
_REGISTRY = re.compile(r"No object named '(.*)' found in '(\w+)' registry")


def explain_build_error(cfg: CfgNode, error: Exception) -> str:
    """Explains an error that `build_model` raised, in one line.

    For an unknown feature name it lists the existing features. For a name that is not registered it
    lists similar names.
    """
    if "class-agnostic" in str(error):
        return _explain_cascade(cfg)
    name = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(name, str):
        registry = _REGISTRY.search(name)
        if registry:
            return f"There is no {registry[1]!r} among the {registry[2]} parts{_near(*registry.groups())}."
        levels = _levels(error.__traceback__)
        if levels is not None and name not in levels:
            return (
                f"{_keys_with(cfg, name, levels)}: there is no feature {name!r}; the features at this place are "
                f"{', '.join(levels)}."
            )
    if name is not None:
        keys = [key for key, value in _leaves(cfg.MODEL, "MODEL.") if value == name]
        if keys:
            known = ", ".join(_KNOWN[key] for key in keys if key in _KNOWN)
            return (
                f"{' or '.join(keys)} is {name!r}, which Detectron2 does not know"
                + (f": use {known}" if known else "")
                + "."
            )
    detail = " ".join(str(error).split())
    if isinstance(error, AssertionError) and " " not in detail:
        detail = _failing_line(error.__traceback__) + (f": {detail}" if detail else "")
    return f"The model cannot be built ({detail or type(error).__name__}): check MODEL."


# Keys for which Detectron2's error does not list the right values.
_KNOWN = {
    "MODEL.RESNETS.DEPTH": "18, 34, 50, 101 or 152",
    "MODEL.RESNETS.NORM": "FrozenBN, BN, SyncBN, GN or LN",
    "MODEL.FPN.NORM": "'', BN, SyncBN, FrozenBN, GN or LN",
}


def _explain_cascade(cfg: CfgNode) -> str:
    return (
        f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} needs class-agnostic boxes: set "
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True."
    )


def _failing_line(trace: Optional[TracebackType]) -> str:
    """The source line and the function of an assertion that failed without a message."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return ""
    return (
        f"{frames[-1].line} fails in {frames[-1].name} of {os.path.basename(frames[-1].filename)}"
    )


def _levels(trace: Optional[TracebackType]) -> Optional[List[str]]:
    """The names of the feature levels that were passed to the failing function.

    Detectron2's FPN, proposal generators and heads look levels up in a dict of `ShapeSpec`. Their
    error names only the missing level.
    """
    found: Optional[List[str]] = None
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, dict) and value:
                if all(isinstance(shape, ShapeSpec) for shape in value.values()):
                    found = [str(key) for key in value]
        trace = trace.tb_next
    return found


def _keys_with(cfg: CfgNode, name: str, levels: List[str]) -> str:
    """The keys that list a feature. If there are several, only those that also list one of
    `levels`.
    """
    found = [
        (key, set(value) & set(levels))
        for key, value in _lists(cfg.MODEL, "MODEL.")
        if name in value and _is_used(cfg, key)
    ]
    fitting = [key for key, common in found if common] or [key for key, _ in found]
    return " and ".join(fitting) or "MODEL"


def _is_used(cfg: CfgNode, key: str) -> bool:
    """False for keys of other meta-architectures. Their defaults name features too."""
    owners = {
        "RETINANET": ("RetinaNet",),
        "FCOS": ("FCOS",),
        "SSD": ("SSD",),
        "DEFORMABLE_DETR": ("DeformableDETR",),
        "RT_DETR": ("RTDETRV2",),
        "SEM_SEG_HEAD": ("PanopticFPN", "SemanticSegmentor"),
    }
    part = key.split(".")[1]
    return part not in owners or cfg.MODEL.META_ARCHITECTURE in owners[part]


def _leaves(node: CfgNode, prefix: str) -> Iterator[Tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _lists(node: CfgNode, prefix: str) -> Iterator[Tuple[str, Any]]:
    for key, value in _leaves(node, prefix):
        if isinstance(value, (list, tuple)) and key.endswith("FEATURES"):
            yield key, value


def _near(wrong: str, registry: str) -> str:
    from detectron2 import modeling
    from detectron2.modeling import roi_heads

    key = f"{registry}_REGISTRY"
    table: Any = getattr(modeling, key, None) or getattr(roi_heads, key, None)
    names = [name for name, _ in table] if table is not None else []
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.4)
    own = "; a part of your own must be in a module that SSOD.IMPORTS lists"
    return (f": did you mean {', '.join(near)}?" if near else "") + own
