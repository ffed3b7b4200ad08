"""Arrays that methods pass to the loader, in memory-mapped files that take effect at a fixed step.

A snapshot published after step n takes effect at step n + delay, on every rank and with any number
of workers. So the distance by which workers run ahead does not matter. Files:
`<root>/<method>/<id>/<array>.npy`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
from detectron2.utils import comm

from ssod.errors import UserError

# Open snapshots that a process keeps per method: the one in effect and its predecessor.
_OPEN_PER_METHOD = 2


@dataclass(frozen=True)
class Snapshot:
    """An open snapshot. `arrays` are read-only memory maps, shared by all processes with it."""

    method: str
    id: int
    arrays: Mapping[str, np.ndarray]


class SnapshotReader:
    """Opens published snapshots. It is cheap to pickle, and caches in each process."""

    def __init__(self, root: str) -> None:
        self.root = str(root)
        self._open: Dict[str, Dict[int, Snapshot]] = {}

    def __getstate__(self) -> Dict[str, Any]:
        return {"root": self.root, "_open": {}}

    def path(self, method: str, id: int) -> str:
        """The folder that holds one .npy file per array."""
        return os.path.join(self.root, method, f"{id:06d}")

    def open(self, method: str, id: int) -> Snapshot:
        """Raises `UserError` if the files are not there."""
        cache = self._open.setdefault(method, {})
        if id not in cache:
            path = self.path(method, id)
            try:
                files = sorted(name for name in os.listdir(path) if name.endswith(".npy"))
                arrays = {
                    name[: -len(".npy")]: np.load(os.path.join(path, name), mmap_mode="r")
                    for name in files
                }
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path}: this snapshot of {method} cannot be read ({error}): OUTPUT_DIR must keep its 'snapshots' "
                    "folder and be visible to every machine."
                ) from None
            while len(cache) >= _OPEN_PER_METHOD:
                del cache[min(cache)]
            cache[id] = Snapshot(method, id, arrays)
        return cache[id]

    def forget(self, method: str, id: int) -> None:
        """Drops the cached snapshot, because its files are about to change."""
        self._open.get(method, {}).pop(id, None)


@dataclass(frozen=True)
class _Entry:
    id: int
    effective: int
    arrays: Tuple[str, ...]


class SnapshotBoard:
    """Publishes snapshots and knows which snapshots are in effect at each step.

    Args:
        root: folder for the files, on a file system that all ranks see.
        delay: steps between publication and effect.
    """

    def __init__(self, root: str, delay: int) -> None:
        self.delay = delay
        self.reader = SnapshotReader(root)
        self._entries: Dict[str, List[_Entry]] = {}
        self._next_id: Dict[str, int] = {}

    def check_delay(self, workers: int, prefetch: int) -> None:
        """Raises `UserError` if workers could run further ahead than the delay."""
        least = workers * prefetch + 1
        if self.delay < least:
            raise UserError(
                f"SSOD.SNAPSHOT_DELAY {self.delay} is too short for DATALOADER.NUM_WORKERS {workers}: "
                f"set it to at least {least}."
            )

    def publish(self, method: str, arrays: Mapping[str, np.ndarray], step: int) -> int:
        """Writes a snapshot (rank 0) and registers it (every rank must call this, with equal
        arguments).

        Args:
            arrays: arrays by name. A name is a file name without its ending. Object arrays are not
                allowed.
            step: it takes effect `delay` steps later. Steps of one method must not fall.

        Returns:
            The snapshot's id, counted from 0 per method.
        """
        id = self._next_id.get(method, 0)
        entries = self._entries.setdefault(method, [])
        effective = step + self.delay
        if entries and effective < entries[-1].effective:
            raise ValueError(f"{method} published for step {step} after a later one")
        self.reader.forget(method, id)
        if comm.is_main_process():
            self._write(self.path(method, id), arrays)
        comm.synchronize()
        self._next_id[method] = id + 1
        entries.append(_Entry(id, effective, tuple(sorted(arrays))))
        return id

    @staticmethod
    def _write(path: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes under a temporary name first, so that a folder with the final name is always
        complete.
        """
        temporary = path + ".tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            os.makedirs(temporary)
            for name, array in arrays.items():
                np.save(os.path.join(temporary, name + ".npy"), array, allow_pickle=False)
            # A folder of a run that was killed after the checkpoint from which this one resumed.
            shutil.rmtree(path, ignore_errors=True)
            os.rename(temporary, path)
        except OSError as error:
            raise UserError(
                f"{path}: cannot write a snapshot ({error}): make room there."
            ) from None

    def in_effect(self, step: int) -> Tuple[Tuple[str, int], ...]:
        """(method, id) of the newest snapshot in effect at `step` of each method that has one, by
        method name.
        """
        found = []
        for method in sorted(self._entries):
            ids = [entry.id for entry in self._entries[method] if entry.effective <= step]
            if ids:
                found.append((method, ids[-1]))
        return tuple(found)

    def array_names(self, method: str, id: int) -> Tuple[str, ...]:
        """Names of a registered snapshot's arrays, without opening it."""
        return next(entry.arrays for entry in self._entries[method] if entry.id == id)

    def path(self, method: str, id: int) -> str:
        """See `SnapshotReader.path`."""
        return self.reader.path(method, id)

    def load(self, method: str, id: int) -> Mapping[str, np.ndarray]:
        """The arrays, memory-mapped and read-only."""
        return self.reader.open(method, id).arrays

    def prune(self, keep_from_step: int) -> None:
        """Deletes snapshots that no sample of `keep_from_step` or a later step refers to. Call it
        on every rank.

        Args:
            keep_from_step: the smaller one of two steps: the step being trained (workers only run
                ahead of it), and the step of the oldest checkpoint from which the run may be
                resumed.
        """
        for method, entries in self._entries.items():
            past = [entry for entry in entries if entry.effective <= keep_from_step]
            for entry in past[:-1]:
                self.reader.forget(method, entry.id)
                if comm.is_main_process():
                    shutil.rmtree(self.path(method, entry.id), ignore_errors=True)
                entries.remove(entry)

    def state_dict(self) -> Dict[str, Any]:
        """The schedule as plain Python values, without the files."""
        return {
            "entries": {
                method: [[e.id, e.effective, list(e.arrays)] for e in entries]
                for method, entries in self._entries.items()
            },
            "next_id": dict(self._next_id),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Anything published after the state was taken is forgotten and will be overwritten."""
        self._entries = {
            method: [_Entry(int(id), int(effective), tuple(names)) for id, effective, names in rows]
            for method, rows in state["entries"].items()
        }
        self._next_id = {method: int(id) for method, id in state["next_id"].items()}
        self.reader = SnapshotReader(self.reader.root)
