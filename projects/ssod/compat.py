"""Lets Detectron2 0.6 import on today's NumPy, Pillow and setuptools, and without its compiled
operators.

Every shim is behind a feature test. An environment that needs none (Detectron2's main branch, a
compiled 0.6 on older libraries) stays unchanged. Nothing here imports Detectron2 or torch.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, List, Optional, Sequence

_COMPILED = "detectron2._C"
_RESOURCES = "pkg_resources"

# Names that Detectron2 0.6 uses and NumPy 1.24 removed; each was an alias of the builtin.
# (`np.bool` came back in NumPy 2.)
_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "str": str}

_applied: List[str] = []


class NotCompiledError(RuntimeError):
    """A compiled Detectron2 operator was called where only its Python part is installed."""


def apply() -> None:
    """Installs the shims that this environment needs; calling it again does nothing.

    `ssod/__init__.py` calls it. Pillow and NumPy are loaded and shimmed when something imports
    Detectron2, so that `import ssod` loads neither.
    """
    if _finder in sys.meta_path:
        return
    _quieten()
    # Last in the list, so that it only handles modules that no other finder has.
    sys.meta_path.append(_finder)
    if "detectron2" in sys.modules:
        _shim_libraries()
    else:
        sys.meta_path.insert(0, _watcher)


def applied() -> List[str]:
    """One line for each shim in use.

    The stand-in modules count from the moment something imports them.
    """
    lines = list(_applied)
    for name in (_COMPILED, _RESOURCES):
        if is_stand_in(sys.modules.get(name)):
            lines.append(f"stand-in module {name}")
    return lines


def is_stand_in(module: Optional[ModuleType]) -> bool:
    """Whether a module was made here, in place of one that is not installed."""
    spec = getattr(module, "__spec__", None)
    return isinstance(getattr(spec, "loader", None), _StandInLoader)


def _shim_libraries() -> None:
    _shim_pillow()
    _shim_numpy()


def _shim_pillow() -> None:
    try:
        import PIL.Image
    except ImportError:
        return
    if not hasattr(PIL.Image, "LINEAR"):  # removed in Pillow 10
        setattr(PIL.Image, "LINEAR", PIL.Image.BILINEAR)
        _applied.append("PIL.Image.LINEAR")


def _shim_numpy() -> None:
    try:
        import numpy as np
    except ImportError:
        return
    for name, builtin in _NUMPY_ALIASES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # asking for a removed alias warns
            missing = not hasattr(np, name)
        if missing:
            setattr(np, name, builtin)
            _applied.append(f"numpy.{name}")


def _quieten() -> None:
    """Warnings about Detectron2 0.6's own code that a user can do nothing about and that come with
    every step or start.
    """
    for category, message in (
        (UserWarning, r"torch\.meshgrid: in an upcoming release"),
        (UserWarning, r"pkg_resources is deprecated"),
        (FutureWarning, r"`torch\.jit\.script` is deprecated"),
    ):
        warnings.filterwarnings("ignore", message=message, category=category)


class _Watcher(MetaPathFinder):
    """Shims the libraries before Detectron2 is imported, and finds no module itself."""

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if fullname == "detectron2":
            sys.meta_path.remove(self)
            _shim_libraries()
        return None


class _StandInFinder(MetaPathFinder):
    """Answers for `detectron2._C` and `pkg_resources` when they are not installed and Detectron2
    cannot do without.
    """

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if fullname == _COMPILED and _insists_on_compiled(path or ()):
            return ModuleSpec(fullname, _StandInLoader(_fill_compiled), origin="ssod.compat")
        # Only for the model zoo: other packages have their own way to do without, and should find
        # nothing.
        if fullname == _RESOURCES and "detectron2.model_zoo" in sys.modules:
            return ModuleSpec(fullname, _StandInLoader(_fill_resources), origin="ssod.compat")
        return None


class _StandInLoader(Loader):
    def __init__(self, fill: Callable[[ModuleType], None]) -> None:
        self.fill = fill

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = __file__
        self.fill(module)


_watcher = _Watcher()
_finder = _StandInFinder()


def _insists_on_compiled(detectron2_path: Sequence[str]) -> bool:
    """0.6 imports `_C` unconditionally.

    Later versions call `torch.ops` and fall back by themselves when `_C` is missing,
    to the Python COCO evaluation for one: a stand-in would take that from them.
    """
    for folder in detectron2_path:
        source = Path(folder) / "layers" / "rotated_boxes.py"
        if source.is_file():
            return "import _C" in source.read_text(encoding="utf-8")
    return False


def _fill_compiled(module: ModuleType) -> None:
    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        advice = "take a model without rotated boxes and deformable convolution"
        if name.startswith(("COCOeval", "InstanceAnnotation")):
            advice = "pass use_fast_impl=False to COCOEvaluator"

        def operator(*args: Any, **kwargs: Any) -> Any:
            raise NotCompiledError(
                f"detectron2._C.{name} needs Detectron2's compiled part, which is not installed: {advice}, or compile Detectron2."
            )

        return operator

    # What `collect_env_info` asks, and with it `default_setup`.
    setattr(module, "get_compiler_version", lambda: "not compiled (Python part only)")
    setattr(module, "get_cuda_version", lambda: "not compiled (Python part only)")
    setattr(module, "has_cuda", lambda: False)
    setattr(module, "__getattr__", missing)


def _fill_resources(module: ModuleType) -> None:
    def resource_filename(package: str, name: str) -> str:
        """The path of a file in a package; the one function that `detectron2.model_zoo` calls."""
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"No package named {package!r}", name=package)
        return str(Path(spec.submodule_search_locations[0]) / name)

    setattr(module, "resource_filename", resource_filename)
    # pytest calls it whenever a module of this name is loaded; there are no namespace packages to
    # fix.
    setattr(module, "fixup_namespace_packages", lambda path, parent=None: None)
