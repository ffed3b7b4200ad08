"""Checks that a detector has what the methods need."""

from __future__ import annotations

from typing import Tuple

from torch import nn

from ssod.detectors.base import Capability, Detector, lacking
from ssod.detectors.rcnn.supported import unsupported_part
from ssod.detectors.registry import families_with
from ssod.errors import UserError
from ssod.methods.base import Method


def check_fit(detector: Detector, methods: nn.ModuleDict) -> None:
    """Refuses methods that the detector's family cannot serve.

    Raises:
        UserError: names the method, the missing part, and the families on which the method runs.
    """
    name, used = _called(detector), [m for m in methods.values() if isinstance(m, Method)]
    for method in used:
        missing = lacking(method.needs, detector.capabilities)
        if missing:
            what = " and ".join(capability.value for capability in missing)
            hint = f", or {method.needs_hint}" if method.needs_hint else ""
            raise UserError(
                f"{method.name} needs {what}, which {name} does not have; it runs on {_listed(families_with(method.needs))}: "
                f"remove it from SSOD.METHODS{hint}."
            )
    weighs = Capability.WEIGHTS in detector.capabilities
    learning = any(method.selects_pseudo_labels for method in used)
    if learning and not weighs and not any(method.regresses_pseudo_boxes for method in used):
        raise UserError(
            f"The losses of {name} regress every pseudo-box: add PseudoBoxRegression to SSOD.METHODS."
        )


def _called(detector: Detector) -> str:
    if detector.capabilities:
        return detector.family
    return f"this model ({unsupported_part(getattr(detector, 'student', detector))})"


def _listed(names: Tuple[str, ...]) -> str:
    if len(names) < 2:
        return "".join(names) or "no family here"
    return ", ".join(names[:-1]) + " and " + names[-1]
