"""Why a model cannot be built, in the words of the config."""

from __future__ import annotations

import difflib
from types import TracebackType
from typing import Any, Iterator, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec


def explain_build_error(cfg: CfgNode, error: Exception) -> str:
    """One line for an error that `build_model` raised.

    A feature name that does not exist is answered with those that do, a name that no registry has with similar ones.
    """
    name = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(name, str):
        levels = _levels(error.__traceback__)
        if levels is not None and name not in levels:
            keys = [key for key, value in _lists(cfg.MODEL, "MODEL.") if name in value]
            return (
                f"{' and '.join(keys) or 'MODEL'}: there is no feature {name!r}; the features at this place are "
                f"{', '.join(levels)}."
            )
        registry = _registry_name(name)
        if registry:
            return registry
    detail = " ".join(str(error).split())
    return f"The model cannot be built ({detail or type(error).__name__}): check MODEL."


def _levels(trace: Optional[TracebackType]) -> Optional[List[str]]:
    """The names of the feature levels that the failing function was given.

    Detectron2's FPN, proposal generators and heads look levels up in a dict of `ShapeSpec`, and say no more than the name
    that is missing.
    """
    found: Optional[List[str]] = None
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, dict) and value:
                if all(isinstance(shape, ShapeSpec) for shape in value.values()):
                    found = [str(key) for key in value]
        trace = trace.tb_next
    return found


def _lists(node: CfgNode, prefix: str) -> Iterator[Tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _lists(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and key.endswith("FEATURES"):
            yield prefix + key, value


def _registry_name(message: str) -> str:
    """fvcore's "No object named 'x' found in 'BACKBONE' registry!", with the names that are nearest."""
    parts = message.split("'")
    if len(parts) < 5 or "registry" not in message:
        return ""
    wrong, registry = parts[1], parts[3]
    return f"There is no {wrong!r} among the {registry} parts{_near(wrong, registry)}."


def _near(wrong: str, registry: str) -> str:
    from detectron2 import modeling

    table: Any = getattr(modeling, f"{registry}_REGISTRY", None)
    names = [name for name, _ in table] if table is not None else []
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.4)
    own = "; a part of your own must be in a module that SSOD.IMPORTS lists"
    return (f": did you mean {', '.join(near)}?" if near else "") + own
