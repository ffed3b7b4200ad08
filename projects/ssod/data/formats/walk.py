"""Lists files below a folder."""

from __future__ import annotations

import logging
import os
from typing import Iterable, List, Set

from ssod.errors import first_names

logger = logging.getLogger(__name__)

# Pipes, sockets and devices that have been reported.
_reported: Set[str] = set()


def files_below(root: str, *suffixes: str) -> List[str]:
    """The files with one of the suffixes (lower case, with dot), sorted. Hidden files and folders
    are left out, and what `only_files` leaves out.

    Links to folders are followed, but no folder is visited twice.
    """
    found: List[str] = []
    visited = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        chosen = [
            name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
        found += [os.path.join(folder, name) for name in only_files(folder, chosen)]
    return sorted(found)


def only_files(folder: str, names: Iterable[str]) -> List[str]:
    """The names that are no pipes, sockets or devices, because reading one of those may never end.
    A warning lists them once. Links that lead nowhere stay.
    """
    names = list(names)
    if not names:
        return names
    # Listings tell the kinds of most entries, so that large folders on network drives stay fast.
    with os.scandir(folder) as entries:
        others = {e.name for e in entries if not (e.is_file() or e.is_dir()) and os.path.exists(e)}
    left_out = [os.path.join(folder, name) for name in names if name in others]
    new = sorted(set(left_out) - _reported)
    if new:
        _reported.update(new)
        logger.warning(
            f"{folder}: left out {len(new)} pipes, sockets or devices with names of files: {first_names(new)}."
        )
    return [name for name in names if name not in others] if left_out else names
