"""Lists files below a folder."""

from __future__ import annotations

import logging
import os
from typing import List, Set

from ssod.errors import first_names

logger = logging.getLogger(__name__)

# Pipes, sockets and devices that have been reported.
_reported: Set[str] = set()


def files_below(root: str, *suffixes: str) -> List[str]:
    """The files with one of the suffixes (lower case, with dot), sorted. Hidden files and folders
    are left out.

    Links to folders are followed, but no folder is visited twice. Links that lead nowhere count as
    files. Pipes, sockets and devices are left out with a warning, because reading them may never
    end.
    """
    found: List[str] = []
    others: List[str] = []
    visited: Set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        chosen = {
            name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        }
        odd = _no_files(folder) & chosen if chosen else set()
        found += [os.path.join(folder, name) for name in chosen - odd]
        others += [os.path.join(folder, name) for name in odd]
    new = sorted(set(others) - _reported)
    if new:
        _reported.update(new)
        logger.warning(
            f"{root}: left out {len(new)} pipes, sockets or devices with names of files: {first_names(new)}."
        )
    return sorted(found)


def _no_files(folder: str) -> Set[str]:
    """Names of a folder's pipes, sockets and devices. The listing itself tells most kinds apart, so
    that large folders on network drives stay fast.
    """
    with os.scandir(folder) as entries:
        return {e.name for e in entries if not (e.is_file() or e.is_dir()) and os.path.exists(e)}
