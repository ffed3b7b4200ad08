"""Columns of plain Python values in NumPy arrays: a million values are a few Python objects.

Processes that are forked share the arrays' pages. In lists and dicts, reference counts would make
each process copy them. A column gives back equal values of the same types.

Shapes: N values of a column; T values of all its lists together.
"""

from __future__ import annotations

import enum
import pickle
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np

# Stands for a key that a dict does not have.
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT"})()

_MOST_CHOICES = 255
_EXACT = 2**53  # float64 holds every whole number up to this one


class Column(ABC):
    """N values in arrays."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def span(self, start: int, stop: int) -> List[Any]:
        """The values `[start, stop)`, as new Python objects."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all arrays."""


def smallest(values: np.ndarray) -> np.ndarray:
    """Integers in the narrowest signed type that holds them."""
    if not len(values):
        return values.astype(np.int8)
    low, high = int(values.min()), int(values.max())
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values


def ends_of(lengths: Union[Sequence[int], np.ndarray]) -> np.ndarray:
    """(N + 1,) where each of N parts ends, with a leading 0: uint32 if that suffices."""
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends.astype(np.uint32) if ends[-1] < 2**32 else ends


@dataclass(frozen=True)
class Numbers(Column):
    """int, float or bool: (N,) of that kind.

    Args:
        whole: bool (N,), which of the floats are ints. None: none are.
    """

    values: np.ndarray
    whole: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return len(self.values)

    def span(self, start: int, stop: int) -> List[Any]:
        found = self.values[start:stop].tolist()
        if self.whole is None:
            return found
        return [int(v) if w else v for v, w in zip(found, self.whole[start:stop].tolist())]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.whole is None else self.whole.nbytes)


@dataclass(frozen=True)
class Choices(Column):
    """A few different values, each many times, such as None, an enum or a class's name.

    Args:
        codes: uint8 (N,). None if there is only one value.
    """

    values: List[Any]
    length: int
    codes: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return self.length

    def span(self, start: int, stop: int) -> List[Any]:
        if self.codes is None:
            return self.values * (stop - start)
        return [self.values[code] for code in self.codes[start:stop].tolist()]

    @property
    def nbytes(self) -> int:
        return 0 if self.codes is None else self.codes.nbytes


@dataclass(frozen=True)
class Blobs(Column):
    """bytes, str or any picklable value, one after the other in one buffer.

    Args:
        data: uint8 (T,). ends: (N + 1,). kind: "bytes", "text" or "pickle".
    """

    data: np.ndarray
    ends: np.ndarray
    kind: str

    @classmethod
    def join(cls, parts: Sequence[bytes], kind: str) -> "Blobs":
        data = np.frombuffer(b"".join(parts), dtype=np.uint8)
        return cls(data, ends_of(list(map(len, parts))), kind)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def span(self, start: int, stop: int) -> List[Any]:
        ends = self.ends[start : stop + 1].tolist()
        content = self.data[ends[0] : ends[-1]].tobytes()
        parts = [content[a - ends[0] : b - ends[0]] for a, b in zip(ends, ends[1:])]
        if self.kind == "text":
            return [part.decode("utf-8", "surrogatepass") for part in parts]
        return parts if self.kind == "bytes" else [pickle.loads(part) for part in parts]

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.ends.nbytes


@dataclass(frozen=True)
class Paths(Column):
    """File names: the folders once, and for each file the number of its folder and its own name.

    Args:
        folders: each with its last slash. folder: int (N,).
    """

    folders: List[str]
    folder: np.ndarray
    names: Blobs

    def __len__(self) -> int:
        return len(self.names)

    def span(self, start: int, stop: int) -> List[str]:
        folder = self.folder[start:stop].tolist()
        return [self.folders[f] + name for f, name in zip(folder, self.names.span(start, stop))]

    @property
    def nbytes(self) -> int:
        return self.folder.nbytes + self.names.nbytes + sum(map(len, self.folders))


@dataclass(frozen=True)
class Lists(Column):
    """Lists, with their values one after the other in one column.

    Args:
        ends: (N + 1,), or the length that all lists have.
    """

    inner: Column
    ends: Union[np.ndarray, int]
    length: int

    def __len__(self) -> int:
        return self.length

    def bounds(self) -> np.ndarray:
        """int64 (N + 1,)."""
        if isinstance(self.ends, int):
            return np.arange(self.length + 1, dtype=np.int64) * self.ends
        return self.ends.astype(np.int64)

    def span(self, start: int, stop: int) -> List[List[Any]]:
        if isinstance(self.ends, int):
            ends = list(range(start * self.ends, stop * self.ends + 1, self.ends or 1))
            if not self.ends:
                return [[] for _ in range(start, stop)]
        else:
            ends = self.ends[start : stop + 1].tolist()
        values = self.inner.span(ends[0], ends[-1])
        return [values[a - ends[0] : b - ends[0]] for a, b in zip(ends, ends[1:])]

    @property
    def nbytes(self) -> int:
        own = 0 if isinstance(self.ends, int) else self.ends.nbytes
        return own + self.inner.nbytes


@dataclass(frozen=True)
class Arrays(Column):
    """NumPy arrays of one type that differ in their first dimension: (T, ...)."""

    values: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends) - 1

    def span(self, start: int, stop: int) -> List[np.ndarray]:
        ends = self.ends[start : stop + 1].tolist()
        return [self.values[a:b].copy() for a, b in zip(ends, ends[1:])]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.ends.nbytes


@dataclass(frozen=True)
class Maybe(Column):
    """A key that some dicts do not have.

    Args:
        inner: the values of those that have it. ends: (N + 1,), how many of the dicts before have
            it.
    """

    inner: Column
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends) - 1

    def present(self) -> np.ndarray:
        """bool (N,)."""
        return np.diff(self.ends) > 0

    def span(self, start: int, stop: int) -> List[Any]:
        ends = self.ends[start : stop + 1].tolist()
        values = self.inner.span(ends[0], ends[-1])
        return [values[a - ends[0]] if b > a else ABSENT for a, b in zip(ends, ends[1:])]

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes + self.ends.nbytes


@dataclass(frozen=True)
class Held(Column):
    """Values that cannot be pickled, as they are."""

    values: List[Any]

    def __len__(self) -> int:
        return len(self.values)

    def span(self, start: int, stop: int) -> List[Any]:
        return self.values[start:stop]

    @property
    def nbytes(self) -> int:
        return 0


@dataclass(frozen=True)
class Table(Column):
    """Dicts: a column for each key."""

    columns: Dict[str, Column]
    length: int

    def __len__(self) -> int:
        return self.length

    def span(self, start: int, stop: int) -> List[Dict[str, Any]]:
        if not self.columns:
            return [{} for _ in range(start, stop)]
        keys = list(self.columns)
        rows = zip(*(column.span(start, stop) for column in self.columns.values()))
        if not any(isinstance(column, Maybe) for column in self.columns.values()):
            return [dict(zip(keys, row)) for row in rows]
        return [{k: v for k, v in zip(keys, row) if v is not ABSENT} for row in rows]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


def pack_values(values: Sequence[Any]) -> Column:
    """The column of any values. It gives back equal values of equal types."""
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
    """The table of dicts."""
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
    """Texts, with the part up to the last slash stored once where many share it."""
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
    except Exception:  # foreign records may hold anything, and each class has its own error
        return Held(list(values))


def _as_choices(values: Sequence[Any]) -> Optional[Choices]:
    """None if there are too many different values."""
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
