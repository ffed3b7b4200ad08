"""Checks which methods can be listed together: requirements and exclusions."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Tuple, Type

from detectron2.config import CfgNode

from ssod.detectors.registry import families_with
from ssod.errors import UserError
from ssod.methods.base import Method

Kinds = Mapping[str, Type[Method]]


def shared_group(one: Type[Method], other: Type[Method]) -> Optional[str]:
    """A group that one of the two methods belongs to and the other excludes. None if they can be
    combined.

    Example:
        >>> from ssod.methods.ci_ssod import GradientThresholding, LabelMatchThresholds
        >>> shared_group(GradientThresholding, LabelMatchThresholds)
        'class thresholds'
    """
    for first, second in ((one, other), (other, one)):
        for group in first.excludes:
            if group in second.groups:
                return group
    return None


def check_methods(cfg: CfgNode, kinds: Kinds, registered: List[Type[Method]]) -> None:
    """Refuses methods that cannot work together, or not on this config's labels.

    Args:
        kinds: the methods of `SSOD.METHODS` by name, in order. registered: all methods that could
            be named.

    Raises:
        UserError: names the methods and says what to change.
    """
    _check_requirements(kinds)
    _check_exclusions(kinds)
    learning = any(kind.needs_unlabeled for kind in kinds.values())
    if learning and not any(kind.selects_pseudo_labels for kind in kinds.values()):
        choices = ", ".join(kind.__name__ for kind in registered if kind.selects_pseudo_labels)
        raise UserError(
            f"No method in SSOD.METHODS chooses which pseudo-labels to train on: add one of {choices}."
        )
    if not cfg.SSOD.PSEUDO_LABELS:
        return
    if not learning:
        raise UserError(
            "SSOD.PSEUDO_LABELS is set, but no method in SSOD.METHODS learns from unlabelled images: "
            "add ScoreThreshold."
        )
    for name, kind in kinds.items():
        if kind.needs_online_teacher:
            raise UserError(
                f"{name} needs the online teacher: empty SSOD.PSEUDO_LABELS or remove it from "
                "SSOD.METHODS."
            )


def _check_requirements(kinds: Kinds) -> None:
    for name, kind in kinds.items():
        for other in kind.requires:
            if other not in kinds:
                raise UserError(f"{name} needs {other}: add it to SSOD.METHODS.")


def _check_exclusions(kinds: Kinds) -> None:
    names = list(kinds)
    # The methods that need each method, for the message. A method may be listed only because of
    # them.
    needed_by: Dict[str, List[str]] = {
        name: [other for other, kind in kinds.items() if name in kind.requires] for name in names
    }
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            reason = ""
            if shared_group(kinds[name], kinds[other]) is None:
                served = [families_with(kinds[one].needs) for one in (name, other)]
                if set(served[0]) & set(served[1]):
                    continue
                reason = f" (no detector serves both: {' and '.join(map(_family_list, served))})"
            first, second = (
                f"{one} (for {', '.join(needed_by[one])})" if needed_by[one] else one
                for one in (name, other)
            )
            raise UserError(
                f"{first} and {second} cannot be combined{reason}: remove one from SSOD.METHODS."
            )


def _family_list(names: Tuple[str, ...]) -> str:
    return "/".join(names) or "none"
