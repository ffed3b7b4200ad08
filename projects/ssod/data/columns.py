"""Columns hold plain Python values in NumPy arrays: a million values are a few Python objects.

Forked processes share the memory pages of the arrays. They would copy the pages of lists and dicts,
because reading a Python object changes its reference count. A column gives back values that are
equal to those it was made of, and of the same types.

Shapes: N values of a column; T values of all its lists together.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np

# Stands for a key that a dict does not have.
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT"})()


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
    """(N + 1,): a 0, then the place where each of N parts ends. uint32 if that suffices."""
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends.astype(np.uint32) if ends[-1] < 2**32 else ends


@dataclass(frozen=True)
class Numbers(Column):
    """Values that are all int, all float or all bool, in an array (N,); or ints among floats.

    Args:
        whole: bool (N,), true for the floats that stand for ints. None: there are none.
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
    """A few different values that occur many times, such as None, enums or class names.

    Args:
        codes: uint8 (N,), the place of each value in `values`. None if there is only one value.
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
    """Values of type bytes or str, or pickled values, one after the other in one buffer.

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
    """File names. A folder is stored once. A file has its folder's number and its own name.

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
        """Where each list ends, with a leading 0: int64 (N + 1,)."""
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
    """NumPy arrays of one type, joined to one (T, ...). Only their first dimensions differ."""

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
    """The values of a key that some dicts do not have.

    Args:
        inner: the values of the dicts that have the key.
        ends: (N + 1,), how many of the first 0, 1, ... N dicts have the key.
    """

    inner: Column
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends) - 1

    def present(self) -> np.ndarray:
        """bool (N,), true for the dicts that have the key."""
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
    """Values that cannot be pickled. They are kept as they are."""

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
    """Dicts, with a column for each key."""

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
