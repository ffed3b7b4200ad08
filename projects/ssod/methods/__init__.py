"""The methods. Every module and folder here is imported, so that its `Method` is found."""

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
from ssod.methods.composition import check_methods
from ssod.methods.former_keys import add_former_keys, with_present_keys

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
    """Adds every registered method's keys. Import your own method before this call."""
    for method in _registered():
        method.add_config(cfg)
        add_former_keys(cfg, method)


def get_method(name: str) -> Type[Method]:
    """The class of a method by its name in `SSOD.METHODS`.

    Example:
        >>> get_method("ScoreThreshold").__name__
        'ScoreThreshold'
    """
    names = [method.__name__ for method in _registered()]
    if name not in names:
        raise UserError(
            f"SSOD.METHODS names {name!r}, which does not exist: use {', '.join(sorted(names))}."
        )
    return METHOD_REGISTRY.get(name)


def learns_from_unlabeled(cfg: CfgNode) -> bool:
    """True if any of `SSOD.METHODS` needs unlabelled images. Otherwise training is supervised
    throughout.
    """
    return any(get_method(name).needs_unlabeled for name in cfg.SSOD.METHODS)


def build_methods(cfg: CfgNode) -> nn.ModuleDict:
    """The methods of `SSOD.METHODS` in order, checked against each other.

    Raises:
        UserError: a method does not exist, cannot work with the others, or refuses its keys.
    """
    names = list(cfg.SSOD.METHODS)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"SSOD.METHODS lists {name} twice: remove one.")
    kinds = {name: get_method(name) for name in names}
    check_methods(cfg, kinds, _registered())
    cfg = with_present_keys(cfg, list(kinds.values()))
    methods = nn.ModuleDict()
    for name, kind in kinds.items():
        for key, allowed in kind.ranges.items():
            allowed.check(f"SSOD.{kind.config_key}.{key}", cfg.SSOD[kind.config_key][key])
        built = kind(**kind.from_config(cfg))
        built.name = name
        methods[name] = built
    return methods
