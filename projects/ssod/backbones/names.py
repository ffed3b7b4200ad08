"""Weights by name: which tensor of a file belongs to which tensor of a backbone."""

from __future__ import annotations

from typing import Dict, List, Mapping

from torch import Tensor

_WRAPPERS = ("module.", "model.", "backbone.", "bottom_up.", "body.", "encoder.", "student.")


def canonical(name: str) -> str:
    """A timm parameter's name without what wrapping changes.

    `features_only` turns "stages.0.blocks" into "stages_0.blocks" and may put "model." before it.
    """
    name = name.lstrip(".")
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("_", ".")


def match_names(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Dict[str, str]:
    """Target name -> source name, where the canonical names are the same and the shapes too."""
    by_name = {canonical(name): name for name in source}
    found: Dict[str, str] = {}
    for name, tensor in target.items():
        other = by_name.get(canonical(name))
        if other is not None and source[other].shape == tensor.shape:
            found[name] = other
    return found


def match_in_order(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Dict[str, str]:
    """Target name -> source name, one to one in order; empty unless each pair has the same shape.

    For the same architecture written by someone else: its tensors come in the same order under other names.
    """
    ours, theirs = _without_counters(target), _without_counters(source)
    same = len(ours) == len(theirs) and all(
        target[a].shape == source[b].shape for a, b in zip(ours, theirs)
    )
    return dict(zip(ours, theirs)) if same else {}


def _without_counters(state: Mapping[str, Tensor]) -> List[str]:
    return [name for name in state if not name.endswith("num_batches_tracked")]
