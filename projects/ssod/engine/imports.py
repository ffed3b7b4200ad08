"""`SSOD.IMPORTS` lists a user's own modules, so that every command knows the parts that they
register.

A module registers backbones, heads, methods or data sets when it is imported. If the module has its
own config keys, a function `add_config(cfg)` adds them, or `add_<something>_config(cfg)` as in
Detectron2's projects.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from types import ModuleType
from typing import Any, Callable, List, Sequence

from detectron2.config import CfgNode

from ssod.engine.config_files import listed_imports
from ssod.errors import UserError

KEY = "SSOD.IMPORTS"


def import_parts(names: Sequence[str]) -> List[ModuleType]:
    """Imports modules by their dotted names, also from the working directory.

    Raises:
        UserError: a module does not exist or fails while it is imported.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return [_import(name) for name in names]


def _import(name: Any) -> ModuleType:
    if not isinstance(name, str) or not name or name.endswith(".py") or os.sep in name:
        raise UserError(
            f"{KEY} has {name!r}: write a module as Python imports it, such as my_package.my_backbone."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name == error.name or name.startswith(f"{error.name}."):
            raise UserError(
                f"{KEY}: there is no module {name} (looked in {os.getcwd()} and Python's path): run the command in the folder "
                "that holds it, install it, or set PYTHONPATH."
            ) from None
        raise UserError(
            f"{KEY}: {name} needs {error.name}, which is not installed: install it."
        ) from None
    except Exception as error:
        raise UserError(
            f"{KEY}: {name} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}): correct it."
        ) from None


def add_imported_config(cfg: CfgNode, path: str, opts: Sequence[str]) -> None:
    """Imports the modules that a config file (with its `_BASE_`) and KEY VALUE pairs list, and adds
    their keys to `cfg`.

    This happens before the file is merged, because the keys must exist by then. The merge reports
    errors in the file.
    """
    names = _listed(listed_imports(path)) if path else []
    for key, value in zip(opts[0::2], opts[1::2]):
        if key == KEY:
            names = _listed(value)
    for module in import_parts(names):
        for add in config_functions(module):
            try:
                add(cfg)
            except Exception as error:
                raise UserError(
                    f"{KEY}: {module.__name__}.{add.__name__}(cfg) fails ({type(error).__name__}: {error}): correct it."
                ) from None


def config_functions(module: ModuleType) -> List[Callable[[CfgNode], Any]]:
    """The module's own `add_config` and `add_..._config`."""
    return [
        value
        for name, value in sorted(vars(module).items())
        if (name == "add_config" or (name.startswith("add_") and name.endswith("_config")))
        and callable(value)
        and value.__module__ == module.__name__
    ]


def _listed(value: Any) -> List[str]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise UserError(f"{KEY} is {value!r}: write a list, such as ['my_backbone'].") from None
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{KEY} is {value!r}: write a list, such as ['my_backbone'].")
    return list(value)
