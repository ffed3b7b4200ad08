"""The methods, found by themselves: every module and folder here that registers a `Method` is available."""

import importlib
import pkgutil
from typing import List, Type

from detectron2.config import CfgNode
from torch import nn

from ssod.errors import UserError
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)

__all__ = [
    "METHOD_REGISTRY",
    "InertPeriod",
    "Method",
    "StepContext",
    "TrainingData",
    "add_method_configs",
    "build_methods",
    "get_method",
    "learns_from_unlabeled",
]


def _registered() -> List[Type[Method]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return [method for _, method in METHOD_REGISTRY]


def add_method_configs(cfg: CfgNode) -> None:
    """Adds every registered method's keys; a method of your own must be imported before."""
    for method in _registered():
        method.add_config(cfg)


def get_method(name: str) -> Type[Method]:
    """The class of a method by its name in `SSOD.METHODS`."""
    names = [method.__name__ for method in _registered()]
    if name not in names:
        raise UserError(
            f"SSOD.METHODS names {name!r}, which does not exist: use {', '.join(sorted(names))}."
        )
    return METHOD_REGISTRY.get(name)


def learns_from_unlabeled(cfg: CfgNode) -> bool:
    """True if any of `SSOD.METHODS` needs unlabelled images; else training is supervised throughout."""
    return any(get_method(name).needs_unlabeled for name in cfg.SSOD.METHODS)


def build_methods(cfg: CfgNode) -> nn.ModuleDict:
    """The methods of `SSOD.METHODS` in order, checked against each other."""
    names = list(cfg.SSOD.METHODS)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"SSOD.METHODS lists {name} twice: remove one.")
        method = get_method(name)
        for other in method.requires:
            if other not in names:
                raise UserError(f"{name} needs {other}: add it to SSOD.METHODS.")
        for other in method.conflicts:
            if other in names:
                raise UserError(
                    f"{name} and {other} cannot be combined: remove one from SSOD.METHODS."
                )
    selecting = any(get_method(name).selects_pseudo_labels for name in names)
    if learns_from_unlabeled(cfg) and not selecting:
        choices = [m.__name__ for m in _registered() if m.selects_pseudo_labels]
        raise UserError(
            f"No method in SSOD.METHODS chooses which pseudo-labels to train on: add one of {', '.join(choices)}."
        )
    if cfg.SSOD.PSEUDO_LABELS:
        if not learns_from_unlabeled(cfg):
            raise UserError(
                "SSOD.PSEUDO_LABELS is set, but no method in SSOD.METHODS learns from unlabelled images: add ScoreThreshold."
            )
        for name in names:
            if get_method(name).needs_online_teacher:
                raise UserError(
                    f"{name} needs the online teacher: empty SSOD.PSEUDO_LABELS or remove it from SSOD.METHODS."
                )
    methods = nn.ModuleDict()
    for name in names:
        kind = get_method(name)
        built = kind(**kind.from_config(cfg))
        built.name = name
        methods[name] = built
    return methods
