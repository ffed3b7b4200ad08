"""Semi-supervised object detection on Detectron2: `add_ssod_config(cfg)` and `SSODTrainer(cfg)`.

Importing this package imports nothing heavy; the two names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from ssod import compat

if TYPE_CHECKING:
    from ssod.config import add_ssod_config as add_ssod_config
    from ssod.engine.trainer import SSODTrainer as SSODTrainer

__version__ = "0.2.0"

# Before anything imports Detectron2.
compat.apply()

_EXPORTS = {"add_ssod_config": "ssod.config", "SSODTrainer": "ssod.engine.trainer"}

__all__ = ["SSODTrainer", "__version__", "add_ssod_config"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted([*globals(), *_EXPORTS])
