"""Stores the records of a data set as columns in a few arrays. Detectron2 sees a list.

Detectron2's own loaders pickle each record into one buffer. Here each key is a column. So whole
columns (sizes, classes, file names) can be used without making a single dict, and a record takes
less memory (docs/scale.md). Selections and joined sets share the same arrays.

Shapes: N records.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union, overload

import numpy as np

from ssod.data.columns import ABSENT, Choices, Column, Maybe, Numbers, Table
from ssod.data.packing import pack_dicts
from ssod.data.records import Record

_BLOCK = 1024  # records that iterating unpacks at a time


@dataclass(frozen=True)
class Part:
    """Some rows of a table. `rows`: int (N,), their numbers in order; None means all rows."""

    table: Table
    rows: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return len(self.table) if self.rows is None else len(self.rows)

    def span(self, column: Column, start: int, stop: int) -> List[Any]:
        if self.rows is None:
            return column.span(start, stop)
        rows = self.rows[start:stop].tolist()
        return [column.span(row, row + 1)[0] for row in rows]

    def take(self, index: np.ndarray) -> "Part":
        return Part(self.table, index if self.rows is None else self.rows[index])


class PackedRecords(Sequence[Record]):
    """A sequence of Detectron2 dataset dicts. A dict is made anew each time it is asked for, so
    changes to it are lost, as with `DatasetFromList`.

    Example:
        >>> records = PackedRecords.of([{"file_name": "a.jpg", "image_id": 1, "annotations": []}])
        >>> len(records), records[0]["file_name"]
        (1, 'a.jpg')
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = [part for part in parts if len(part)]
        self._ends = [0, *accumulate(map(len, self.parts))]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> "PackedRecords":
        """Packs dicts. Packed records stay as they are."""
        if isinstance(records, PackedRecords):
            return records
        return cls([Part(pack_dicts([dict(record) for record in records]))])

    @classmethod
    def join(cls, sets: Sequence["PackedRecords"]) -> "PackedRecords":
        """All records of several sets, one after the other."""
        return cls([part for records in sets for part in records.parts])

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedRecords": ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Record, "PackedRecords"]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        number = operator.index(index)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        part, row = self._locate(number)
        return Record(part.span(part.table, row, row + 1)[0])

    def _locate(self, index: int) -> tuple[Part, int]:
        number = bisect_right(self._ends, index) - 1
        return self.parts[number], index - self._ends[number]

    def __iter__(self) -> Iterator[Record]:
        for part in self.parts:
            for start in range(0, len(part), _BLOCK):
                block = part.span(part.table, start, min(start + _BLOCK, len(part)))
                yield from map(Record, block)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, PackedRecords)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    def __add__(self, other: Sequence[Mapping[str, Any]]) -> "PackedRecords":
        return PackedRecords.join([self, PackedRecords.of(other)])

    def __repr__(self) -> str:
        return f"PackedRecords({len(self)} records, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays. Arrays that several parts share count once."""
        tables = {id(part.table): part.table.nbytes for part in self.parts}
        rows = (part.rows.nbytes for part in self.parts if part.rows is not None)
        return sum(tables.values()) + sum(rows)

    def take(self, index: np.ndarray) -> "PackedRecords":
        """The records at the places `index`, int (M,), in that order."""
        index = np.asarray(index, dtype=np.int64)
        if len(self.parts) == 1:
            return PackedRecords([self.parts[0].take(index)])
        owner = np.searchsorted(self._ends, index, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(index)]
        parts = []
        for start, stop in zip(cuts, cuts[1:]):
            if stop > start:
                number = int(owner[start])
                parts.append(self.parts[number].take(index[start:stop] - self._ends[number]))
        return PackedRecords(parts)

    def where(self, mask: np.ndarray) -> "PackedRecords":
        """The records for which `mask`, bool (N,), is true."""
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def with_value(self, key: str, value: Any) -> "PackedRecords":
        """The same records, each with the same value under a key."""

        def added(table: Table) -> Table:
            return Table({**table.columns, key: Choices([value], len(table))}, len(table))

        return PackedRecords([Part(added(part.table), part.rows) for part in self.parts])

    def only(self, keys: Sequence[str]) -> "PackedRecords":
        """The same records with these keys alone."""

        def kept(table: Table) -> Table:
            return Table({k: table.columns[k] for k in keys if k in table.columns}, len(table))

        return PackedRecords([Part(kept(part.table), part.rows) for part in self.parts])

    def column(self, key: str, default: Any = None) -> "RecordColumn":
        """The values under a key, by record."""
        return RecordColumn(self, key, default)

    def whole_numbers(self, key: str) -> np.ndarray:
        """The values under a key as int64 (N,). A record without a value has 0."""
        found = [_numbers(part, key) for part in self.parts]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


class RecordColumn(Sequence[Any]):
    """The values under one key of `PackedRecords`. The sequence shares their arrays."""

    def __init__(self, records: PackedRecords, key: str, default: Any) -> None:
        self._records, self._key, self._default = records, key, default

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        part, row = self._records._locate(range(len(self))[index])
        return self._span(part, row, row + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        for part in self._records.parts:
            for start in range(0, len(part), _BLOCK):
                yield from self._span(part, start, min(start + _BLOCK, len(part)))

    def _span(self, part: Part, start: int, stop: int) -> List[Any]:
        column = part.table.columns.get(self._key)
        if column is None:
            return [self._default] * (stop - start)
        found = part.span(column, start, stop)
        return [self._default if value is ABSENT else value for value in found]


def column_of(records: Sequence[Mapping[str, Any]], key: str) -> Sequence[Any]:
    """The values under a key that every record has, in a form that forked processes share."""
    return PackedRecords.of(records).column(key) if len(records) else []


def _numbers(part: Part, key: str) -> np.ndarray:
    column = part.table.columns.get(key)
    if column is None:
        return np.zeros(len(part), dtype=np.int64)
    found = _plain_numbers(column)
    if found is None:
        values = column.span(0, len(column))
        found = np.array([0 if v is ABSENT else v or 0 for v in values], dtype=np.int64)
    return found if part.rows is None else found[part.rows]


def _plain_numbers(column: Column) -> Optional[np.ndarray]:
    if isinstance(column, Numbers) and column.whole is None:
        return column.values.astype(np.int64)
    if isinstance(column, Maybe) and isinstance(column.inner, Numbers):
        inner = _plain_numbers(column.inner)
        if inner is not None:
            found = np.zeros(len(column), dtype=np.int64)
            found[column.present()] = inner
            return found
    return None


def columns_of(part: Part, key: str) -> Dict[str, Column]:
    """The columns of the dicts in the lists under a key. {} if the lists hold no dicts."""
    column = part.table.columns.get(key)
    inner = getattr(column, "inner", None)
    return inner.columns if isinstance(inner, Table) else {}
