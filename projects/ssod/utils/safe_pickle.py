"""Reads published `.pkl` weights without running what a pickle may ask for.

Those files hold dicts, strings and NumPy arrays. Only the names that such files need are looked up;
anything else is refused.
"""

from __future__ import annotations

import collections
import pickle
from typing import IO, Any, Dict, Tuple

import numpy as np

from ssod.errors import UserError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What Python 3 writes for `bytes` in old pickle protocols; no other codec is looked up."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r} is not allowed")
    return text.encode("latin1")


def _allowed() -> Dict[Tuple[str, str], Any]:
    array = np.zeros(1)
    table: Dict[Tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for kind in (
        set,
        frozenset,
        bytearray,
        complex,
        list,
        dict,
        tuple,
        int,
        float,
        bool,
        str,
        bytes,
    ):
        for module in ("builtins", "__builtin__"):
            table[module, kind.__name__] = kind
    for core in (
        "numpy.core",
        "numpy._core",
    ):  # NumPy 2 renamed it, files keep the name they were written with
        table[f"{core}.multiarray", "_reconstruct"] = array.__reduce__()[0]
        table[f"{core}.multiarray", "scalar"] = np.float32(1).__reduce__()[0]
        table[f"{core}.numeric", "_frombuffer"] = array.__reduce_ex__(5)[0]
    return table


class _Refused(Exception):
    pass


class _RestrictedUnpickler(pickle.Unpickler):
    allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise _Refused(f"{module}.{name}")
        return self.allowed[module, name]


def load_pickle(file: IO[bytes], path: str) -> Any:
    """Unpickles plain containers, numbers, strings and NumPy arrays.

    Args:
        file: open for reading. path: its name, for messages.

    Raises:
        UserError: the file asks for any other class or function, or is cut off.
    """
    try:
        return _RestrictedUnpickler(file, encoding="latin1").load()
    except _Refused as refused:
        raise UserError(
            f"{path} is a pickle that asks for {refused}, which could run code: only plain containers and NumPy arrays "
            "are loaded. If you trust it, convert it with torch.save to a .pth of tensors."
        ) from None
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a pickle ({type(error).__name__}: {error}): it is cut off or damaged, fetch it again."
        ) from None
