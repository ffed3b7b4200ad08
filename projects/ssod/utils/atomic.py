"""Files that are either the old one or the complete new one, whenever the process or the machine
dies.
"""

from __future__ import annotations

import os
from typing import IO, Callable

from ssod.errors import UserError


def write_atomically(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file beside `path`, flushes it to the disk, then puts it in the place of `path`.

    The temporary name is fixed, so that the next process overwrites the file that a killed one
    left. Only one process may write a given path.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        _remove(temporary)
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:
        _remove(temporary)
        # torch.save reports a full disk in its own way.
        if isinstance(error, RuntimeError) and "unexpected pos" in str(error):
            raise UserError(f"Cannot write {path}: the disk may be full.") from error
        raise


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)


def _sync_folder(folder: str) -> None:
    """The rename itself must reach the disk too; some file systems do not offer this."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
