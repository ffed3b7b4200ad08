"""Finds the adapter of a detector by the model that was built."""

from __future__ import annotations

import importlib
import pkgutil
from typing import List, Sequence, Tuple, Type, TypeVar

from detectron2.config import CfgNode
from torch import nn

import ssod.detectors
from ssod.detectors.base import Detector, Need, lacking
from ssod.detectors.loss_only import LossOnlyModel

DetectorType = TypeVar("DetectorType", bound=Type[Detector])

_FAMILIES: List[Type[Detector]] = []


def register_detector(kind: DetectorType) -> DetectorType:
    """Class decorator: the adapter is used for every model that its `serves` accepts.

    The adapter that was registered last is asked first. So a module of `SSOD.IMPORTS` can replace
    an adapter of this package.
    """
    _FAMILIES.append(kind)
    return kind


def families() -> List[Type[Detector]]:
    """Every adapter: `LossOnlyModel`, those of this package, then those of others."""
    # All modules and folders here are imported, as those of methods are.
    for module in pkgutil.iter_modules(ssod.detectors.__path__):
        importlib.import_module(f"ssod.detectors.{module.name}")
    others = sorted(_FAMILIES, key=lambda kind: not kind.__module__.startswith("ssod.detectors."))
    return [LossOnlyModel, *others]


def find_detector(model: nn.Module) -> Type[Detector]:
    """The adapter's class; `LossOnlyModel` serves every model."""
    return next(kind for kind in reversed(families()) if kind.serves(model))


def build_adapter(cfg: CfgNode, student: nn.Module) -> Detector:
    """The adapter of a model that Detectron2's `build_model` built.

    Raises:
        UserError: the config asks for something that the family cannot do.
    """
    return find_detector(student).from_config(cfg, student)


def families_with(needs: Sequence[Need]) -> Tuple[str, ...]:
    """The names of the families that meet the needs, sorted."""
    met = [kind for kind in families() if not lacking(tuple(needs), kind.capabilities)]
    return tuple(sorted({kind.family for kind in met}))
