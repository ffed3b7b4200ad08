"""Reads weights that others wrote: `.pth`, `.pt`, `.safetensors` and PyTorch files under any name,
without running code.
"""

from __future__ import annotations

import pickle
import re
from typing import Any, Dict, Mapping

import torch

from ssod.errors import UserError

# Where training programs put the weights in their checkpoints; averaged ones come first.
_NESTED = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "weights", "net")


def load_tensor_file(path: str) -> Dict[str, Any]:
    """Reads a dict from a PyTorch or safetensors file, onto the CPU.

    Raises:
        UserError: it is cut off or damaged, holds classes, or is no dict.
    """
    if path.endswith(".safetensors"):
        return _load_safetensors(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"Cannot read {path} ({error.strerror or error}): correct the path."
        ) from None
    except Exception as error:
        # PyTorch has no exceptions of its own for these.
        refused = (
            re.search(r"GLOBAL ([\w.]+)", str(error))
            if isinstance(error, pickle.UnpicklingError)
            else None
        )
        if refused:
            raise UserError(
                f"{path} holds a {refused.group(1)}, and only tensors and plain values are loaded: "
                "save its weights alone (state_dict of tensors) with torch.save."
            ) from None
        raise UserError(
            f"{path} is cut off, damaged or no PyTorch file: fetch or train it again, or name another one."
        ) from None
    if not isinstance(data, dict):
        raise UserError(
            f"{path} holds a {type(data).__name__}, not a dict of weights: save a state_dict."
        )
    return data


def unnest(data: Dict[str, Any]) -> Dict[str, Any]:
    """What a file holds, with its weights under "model", wherever the program that wrote it put
    them.
    """
    if _is_state(data.get("model")):
        return data
    for key in _NESTED:
        if _is_state(data.get(key)):
            return {"model": data[key]}
    return data if "model" in data else {"model": data}


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(hasattr(v, "shape") for v in value.values())


def _load_safetensors(path: str) -> Dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs safetensors ({error}): pip install safetensors") from None
    try:
        return dict(load_file(path))
    except OSError as error:
        raise UserError(
            f"Cannot read {path} ({error.strerror or error}): correct the path."
        ) from None
    except Exception as error:
        raise UserError(
            f"{path} is cut off, damaged or no safetensors file ({' '.join(str(error).split())}): fetch it again."
        ) from None
