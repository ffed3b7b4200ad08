"""Turns detectors of each family into functions of one image, for TorchScript and ONNX.

A family registers its function with `@exports(ItsModel)`, in a file of this folder or beside its
model. `flat_detector` finds the function of the model's nearest class.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Callable, Dict, List, Tuple, Type

from torch import Tensor, nn

from ssod.errors import UserError

FlatBuilder = Callable[[nn.Module], "FlatDetector"]
_BUILDERS: Dict[Type[nn.Module], FlatBuilder] = {}


class FlatDetector(nn.Module):
    """A detector that takes and returns tensors, so that it can be traced.

    Args:
        model: the detector, in evaluation mode.

    Attributes:
        outputs: names of what `forward` returns.
    """

    outputs: Tuple[str, ...] = ("boxes", "scores", "classes")
    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        """Detections after non-maximum suppression, best first.

        Args:
            image: float32 (3, H, W), of 0 to 255, resized, in the channel order of `INPUT.FORMAT`.

        Returns:
            boxes (D, 4) XYXY in pixels of `image`, scores (D,), classes (D,) int64, and for a model
            with masks (`outputs` names them) the probabilities (D, S, S) inside of each box.
        """
        raise NotImplementedError


def exports(*kinds: Type[nn.Module]) -> Callable[[FlatBuilder], FlatBuilder]:
    """Registers the function that makes a `FlatDetector` of models of some classes and their
    subclasses.

    The function gets the model and raises `UserError` for one that it cannot serve.
    """

    def register(build: FlatBuilder) -> FlatBuilder:
        for kind in kinds:
            _BUILDERS[kind] = build
        return build

    return register


def flat_detector(model: nn.Module) -> FlatDetector:
    """The model as a function of one image.

    Raises:
        UserError: no family knows it, or its family cannot export it.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for kind in type(model).__mro__:
        if kind in _BUILDERS:
            return _BUILDERS[kind](model).eval()
    raise UserError(
        f"{type(model).__name__} has no export to TorchScript or ONNX; {', '.join(known_families())} have: use "
        "--format detectron2, or register a function with ssod.detectors.exporting.exports."
    )


def known_families() -> List[str]:
    """Names of the classes with a registered function."""
    return sorted(kind.__name__ for kind in _BUILDERS)
