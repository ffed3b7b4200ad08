"""The column of the file names below a folder, and records that are images alone."""

from __future__ import annotations

import os
from typing import Dict, List, Sequence

import numpy as np

from ssod.data.columns import Blobs, Column, Numbers, Paths, Table, ends_of, smallest
from ssod.data.packed import PackedRecords, Part

_BLOCK = 1 << 16


class PathsBuilder:
    """File names below a folder, as `os.path.join` joins them.

    Args:
        root: the folder. compared: whether `has_repetitions` will be asked.
    """

    def __init__(self, root: str, *, compared: bool = False) -> None:
        self._compared = compared
        self._prefix = os.path.join(root, "")
        self._folders: Dict[str, int] = {}
        self._folder: List[np.ndarray] = []
        self._data: List[np.ndarray] = []
        self._lengths: List[np.ndarray] = []
        self._hashes: List[np.ndarray] = []

    def add(self, names: List[str]) -> None:
        """Adds names, relative to the folder or absolute."""
        count = len(names)
        joined = "".join(names)
        if "/" in joined:
            parts = [name.rpartition("/") for name in names]
            names = [name for _, _, name in parts]
            heads = [head + slash for head, slash, _ in parts]
            known = {head: self._number(head) for head in dict.fromkeys(heads)}
            folders = [known[head] for head in heads]
            joined = "".join(names)
        else:
            folders = [self._number("")] * count
        numbers = np.array(folders, dtype=np.int64)
        self._folder.append(smallest(numbers))
        if self._compared:
            own = np.fromiter(map(hash, names), dtype=np.int64, count=count)
            self._hashes.append(own ^ (numbers * 0x9E3779B97F4A7C))
        if joined.isascii():
            self._data.append(np.frombuffer(joined.encode("ascii"), dtype=np.uint8))
            lengths = list(map(len, names))
        else:
            encoded = [name.encode("utf-8", "surrogatepass") for name in names]
            self._data.append(np.frombuffer(b"".join(encoded), dtype=np.uint8))
            lengths = list(map(len, encoded))
        self._lengths.append(smallest(np.array(lengths, dtype=np.int64)))

    def _number(self, below: str) -> int:
        folder = below if below.startswith("/") else self._prefix + below
        return self._folders.setdefault(folder, len(self._folders))

    def __len__(self) -> int:
        return sum(map(len, self._lengths))

    def has_repetitions(self) -> bool:
        """Whether two names may be equal: their hashes are."""
        hashes = np.sort(np.concatenate(self._hashes))
        return bool((np.diff(hashes) == 0).any())

    def finish(self) -> Column:
        """The column. Nothing can be added any more."""
        data, self._data = np.concatenate(self._data), []
        ends = ends_of(np.concatenate(self._lengths))
        folder = smallest(np.concatenate(self._folder).astype(np.int64))
        return Paths(list(self._folders), folder, Blobs(data, ends, "text"))


def image_records(root: str, names: Sequence[str]) -> PackedRecords:
    """Records with "file_name", joined to the folder, and "image_id", counted from 1."""
    if not len(names):
        return PackedRecords([])
    paths = PathsBuilder(root)
    for start in range(0, len(names), _BLOCK):
        paths.add(list(names[start : start + _BLOCK]))
    ids = Numbers(smallest(np.arange(1, len(names) + 1)))
    return PackedRecords([Part(Table({"file_name": paths.finish(), "image_id": ids}, len(names)))])
