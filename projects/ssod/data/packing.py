"""Turns Python values into columns, by looking at their types."""

from __future__ import annotations

import enum
import pickle
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ssod.data.columns import (
    Arrays,
    Blobs,
    Choices,
    Column,
    Held,
    Lists,
    Maybe,
    Numbers,
    Paths,
    Table,
    ends_of,
    smallest,
)

_MOST_CHOICES = 255


_EXACT = 2**53  # float64 holds every whole number up to this one


def pack_values(values: Sequence[Any]) -> Column:
    """Packs any values into a column. It gives back equal values of the same types."""
    kinds = set(map(type, values))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        return _pack_mixed(values)
    if kind is bool or kind is float:
        return Numbers(np.array(values, dtype=kind))
    if kind is int:
        try:
            return Numbers(smallest(np.array(values, dtype=np.int64)))
        except OverflowError:
            return _pickled(values)
    if kind is list:
        inner = pack_values([value for row in values for value in row])
        lengths = set(map(len, values))
        ends = lengths.pop() if len(lengths) == 1 else ends_of(list(map(len, values)))
        return Lists(inner, ends, len(values))
    if kind is bytes:
        return Blobs.join(values, "bytes")
    if kind is dict:
        return pack_dicts(values)
    if kind is np.ndarray:
        return _pack_arrays(values)
    if kind in (str, type(None)) or issubclass(kind, enum.Enum):
        choices = _as_choices(values)
        if choices is not None:
            return choices
    return pack_text(values) if kind is str else _pickled(values)


def pack_dicts(rows: Sequence[Dict[str, Any]]) -> Table:
    """Packs dicts into a table."""
    columns: Dict[str, Column] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        have = [key in row for row in rows]
        if all(have):
            columns[key] = pack_values([row[key] for row in rows])
        else:
            inner = pack_values([row[key] for row, own in zip(rows, have) if own])
            columns[key] = Maybe(inner, ends_of(have))
    return Table(columns, len(rows))


def pack_text(values: Sequence[str]) -> Column:
    """Packs texts. Where many share the part up to the last slash, it is stored once."""
    if len(values) > 8 and all("/" in value for value in values[:8]):
        folders: Dict[str, int] = {}
        numbers = np.empty(len(values), dtype=np.int64)
        names: List[str] = []
        for index, value in enumerate(values):
            head, slash, name = value.rpartition("/")
            numbers[index] = folders.setdefault(head + slash, len(folders))
            names.append(name)
        if len(folders) <= len(values) // 4:
            return Paths(list(folders), smallest(numbers), _texts(names))
    return _texts(values)


def _texts(values: Sequence[str]) -> Blobs:
    joined = "".join(values)
    if joined.isascii():
        data = np.frombuffer(joined.encode("ascii"), dtype=np.uint8)
        return Blobs(data, ends_of(list(map(len, values))), "text")
    return Blobs.join([value.encode("utf-8", "surrogatepass") for value in values], "text")


def _pickled(values: Sequence[Any]) -> Column:
    try:
        return Blobs.join([pickle.dumps(v, pickle.HIGHEST_PROTOCOL) for v in values], "pickle")
    except Exception:  # records may hold any object, and each class has its own error
        return Held(list(values))


def _as_choices(values: Sequence[Any]) -> Optional[Choices]:
    """Packs values of which few differ. None if too many differ."""
    if len(set(values[:1024])) > max(1, min(len(values) // 4, _MOST_CHOICES)):
        return None
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    if len(numbers) > _MOST_CHOICES:
        return None
    if len(numbers) == 1:
        return Choices(list(numbers), len(values))
    codes = np.fromiter((numbers[v] for v in values), dtype=np.uint8, count=len(values))
    return Choices(list(numbers), len(values), codes)


def _pack_mixed(values: Sequence[Any]) -> Column:
    if not values:
        return Choices([], 0)
    if set(map(type, values)) == {int, float}:
        whole = np.fromiter((type(v) is int for v in values), dtype=bool, count=len(values))
        if all(abs(v) <= _EXACT for v in values if type(v) is int):
            return Numbers(np.array(values, dtype=np.float64), whole)
    return _pickled(values)


def _pack_arrays(values: Sequence[np.ndarray]) -> Column:
    first = values[0]
    if first.dtype.hasobject or any(
        v.ndim == 0 or v.dtype != first.dtype or v.shape[1:] != first.shape[1:] for v in values
    ):
        return _pickled(values)
    return Arrays(np.concatenate(values), ends_of([len(v) for v in values]))
