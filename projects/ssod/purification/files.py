"""The images below a folder as a list on disk, so that its length costs no memory."""

from __future__ import annotations

import os
from typing import IO, Any, Iterator, Sequence

import numpy as np

from ssod.data.formats.walk import only_files
from ssod.data.records import is_image
from ssod.errors import UserError
from ssod.utils.atomic import write_atomically

NAMES, ENDS = "wild_files.txt", "wild_ends.npy"


def walk_images(folder: str) -> Iterator[str]:
    """Image files below a folder, without hidden ones, as relative paths with "/". They come
    directory by directory, sorted in each.

    Memory never holds more than one directory's names.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): correct --wild.")

    for where, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(where, folder)
        for name in sorted(only_files(where, files)):
            # A name with a line break cannot be stored in a list of lines.
            if is_image(name) and not name.startswith(".") and "\n" not in name:
                path = name if below == "." else os.path.join(below, name)
                yield path.replace(os.sep, "/")


class FileList(Sequence):
    """Paths by index, memory-mapped.

    Args:
        output: the folder of `write_list`. Its two files must be there.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._names = np.memmap(os.path.join(output, NAMES), dtype=np.uint8, mode="r")
        self._ends = np.load(os.path.join(output, ENDS), mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def __reduce__(self) -> Any:
        return FileList, (self._output,)  # a pickled memory map would be a copy

    def __getitem__(self, index: Any) -> Any:
        start = 0 if index == 0 else int(self._ends[index - 1])
        # Without the line break.
        return os.fsdecode(self._names[start : int(self._ends[index]) - 1].tobytes())


def write_list(folder: str, output: str) -> int:
    """Lists the folder into `output` and returns the number of images.

    Raises:
        UserError: the folder does not exist, or has no image.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder: correct --wild.")
    lengths = 0
    path = os.path.join(output, NAMES)

    def write(file: IO[bytes]) -> None:
        nonlocal lengths
        for name in walk_images(folder):
            file.write(os.fsencode(name) + b"\n")
            lengths += 1

    write_atomically(path, write)
    if lengths == 0:
        os.remove(path)
        raise UserError(f"{folder} holds no image files: correct --wild.")
    ends = np.flatnonzero(np.memmap(path, dtype=np.uint8, mode="r") == ord("\n")) + 1
    write_atomically(os.path.join(output, ENDS), lambda file: np.save(file, ends))
    return lengths


def has_list(output: str) -> bool:
    """Whether `write_list` has finished. It writes the ends last."""
    return os.path.exists(os.path.join(output, ENDS))
