"""Compares packed records with the dicts that they were made of, types included."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from ssod.data.packed import PackedRecords
from ssod.data.records import Record


def identical(a: Any, b: Any) -> bool:
    """Equal, and of the same types at every depth. A record is a dict."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


def check_packing(rows: Sequence[Mapping[str, Any]]) -> PackedRecords:
    """Packs rows and asserts that nothing is lost: by index, by iterating, in a selection."""
    plain = [dict(row) for row in rows]
    packed = PackedRecords.of(plain)
    assert len(packed) == len(plain)
    assert identical(list(packed), plain)
    assert identical([packed[index] for index in range(len(plain))], plain)
    assert all(type(row) is Record for row in packed)
    backwards = packed.take(np.arange(len(plain))[::-1])
    assert identical(list(backwards), plain[::-1])
    return packed
