"""Lists files below a folder."""

from __future__ import annotations

import os
from typing import List


def files_below(root: str, *suffixes: str) -> List[str]:
    """The files with one of the suffixes (lower case, with dot), sorted. Hidden files and folders
    are left out.

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
        found += [
            os.path.join(folder, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(found)
