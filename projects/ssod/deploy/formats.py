"""Writes a detector as TorchScript or ONNX, with any image size and suppression inside."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List
from unittest import mock

import torch
from torch import Tensor
from torchvision.ops import boxes as torchvision_boxes

from ssod.deploy import onnx_ops, torch_ops
from ssod.detectors.exporting import FlatDetector
from ssod.errors import UserError

# RoIAlign with half-pixel coordinates came with 16.
_OPSET = 17
_EXTRA = "pip install 'ssod[export]'"


def write_torchscript(flat: FlatDetector, path: str, device: str) -> List[str]:
    """Traces a detector into a file that PyTorch runs alone.

    Args:
        flat: on `device`, which the file is bound to.

    Returns:
        The packages that must be imported before the file is loaded: none for operators of
        PyTorch, "torchvision" where the model calls others of torchvision's.
    """
    with torch.no_grad(), _quiet(), torch_ops.in_place(), _explained(flat, "TorchScript"):
        traced = torch.jit.trace(flat, _example().to(device), check_trace=False)
        torch.jit.save(traced, path)
    foreign = {name.split("::")[0] for name in _operators(traced.inlined_graph)} - {"aten", "prim"}
    return sorted(foreign)


def write_onnx(flat: FlatDetector, path: str) -> None:
    """Writes a detector on the CPU as ONNX; the image's sides and the number of detections are
    dynamic.

    Raises:
        UserError: the package onnx is missing, or an operator has no form in ONNX.
    """
    check_packages()
    dynamic: Dict[str, Dict[int, str]] = {name: {0: "detections"} for name in flat.outputs}
    options: Dict[str, Any] = {
        "opset_version": _OPSET,
        "input_names": ["image"],
        "output_names": list(flat.outputs),
        "dynamic_axes": {"image": {1: "height", 2: "width"}, **dynamic},
    }
    # The exporter that records a trace. The other one refuses sizes that depend on the data, and
    # the number of detections does.
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    suppress = mock.patch.object(torchvision_boxes, "batched_nms", onnx_ops.batched_nms)
    with torch.no_grad(), _quiet(), suppress, _explained(flat, "ONNX"):
        torch.onnx.export(flat, (_example(),), path, **options)


def check_packages() -> None:
    """Raises `UserError` if what writes and runs ONNX is not installed."""
    missing = _missing_packages()
    if missing:
        raise UserError(f"Not installed: {' and '.join(missing)}. Install with {_EXTRA}.")


def onnx_is_installed() -> bool:
    """Whether a model can be written and run as ONNX here."""
    return not _missing_packages()


def _missing_packages() -> List[str]:
    return [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]


def _example() -> Tensor:
    """An image whose sides differ and are no multiple of a power of two."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 203, 251, generator=generator) * 255


def _operators(block: Any) -> List[str]:
    """The kinds of all nodes of a graph, also inside of branches and loops."""
    found = []
    for node in block.nodes():
        found.append(node.kind())
        for inner in node.blocks():
            found += _operators(inner)
    return found


@contextmanager
def _explained(flat: FlatDetector, title: str) -> Iterator[None]:
    """Turns any error of a traced model into one line."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{type(flat.model).__name__} has a part that {title} cannot hold ({reason[:200]}): use another --format."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warnings about Python values in a trace. The check finds what they break."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
