"""One training at a time in an OUTPUT_DIR.

The lock belongs to the process, so the system removes it when the process ends for any reason.
Child processes do not have it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from typing import Dict

from ssod.errors import UserError

logger = logging.getLogger(__name__)

LOCK_FILE = ".run.lock"
# Open files by folder: closing any of a process's files on a path would drop its lock.
_held: Dict[str, int] = {}


def make_output_dir(folder: str) -> None:
    """Makes OUTPUT_DIR.

    Raises:
        UserError: it cannot be made, or cannot be written into.
    """
    if not folder:
        raise UserError("OUTPUT_DIR is empty: name a folder.")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be made ({error.strerror}): name another folder."
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"OUTPUT_DIR {folder} cannot be written into: name another folder.")


def hold(folder: str) -> None:
    """Takes the lock of `folder`; nothing where this process has it.

    Raises:
        UserError: another process trains there, or the folder cannot be written into.
    """
    key = os.path.realpath(folder)
    if key in _held:
        return
    path = os.path.join(key, LOCK_FILE)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be written into ({error.strerror}): name another folder."
        ) from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"Another run is training in OUTPUT_DIR {folder} ({owner or 'unknown process'}): wait for it, stop it, or "
                "give another OUTPUT_DIR."
            ) from None
        logger.debug(f"{folder} is on a file system without locks ({error.strerror}).")
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    _held[key] = descriptor


def release(folder: str) -> None:
    """Gives the lock back; nothing where this process does not have it."""
    descriptor = _held.pop(os.path.realpath(folder), None)
    if descriptor is not None:
        os.close(descriptor)


def check_free(folder: str) -> None:
    """Raises `UserError` if another process trains in `folder`."""
    if os.path.realpath(folder) not in _held:
        hold(folder)
        release(folder)
