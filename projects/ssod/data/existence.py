"""Finds missing image files by listing folders, which is fast on network drives."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Set

import numpy as np

from ssod.data.packed import PackedRecords
from ssod.errors import UserError, relative_to

# In an unlabelled set only this many images are checked, spread over the set.
_SAMPLE = 16
# A set may lack this share of its images. They are left out and listed. If more are missing, the
# path is probably wrong.
_TOLERATED = 0.01
# A listing may spell a name in another way than the path does. At most this many names are checked
# one by one.
_ASKED = 100

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # s3://, http://

# Source -> the images that it lists and that do not exist. `skipped_images.json` lists them too.
_missing: Dict[str, List[str]] = {}


def missing_files(paths: Iterable[str]) -> List[str]:
    """The paths that lead to no file, in their order.

    Addresses of other kinds (s3://) count as existing.
    """
    listed: Dict[str, Set[str]] = {}
    missing: List[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if _ADDRESS.match(path):
            continue
        if folder not in listed:
            listed[folder] = names_in(folder)
        if name in listed[folder]:
            continue
        if len(missing) >= _ASKED or not is_there(path):
            missing.append(path)
    return missing


def is_there(path: str) -> bool:
    """Whether a path leads to a file."""
    return os.path.exists(path)


def names_in(folder: str) -> Set[str]:
    """The names in a folder, without any if it cannot be listed."""
    try:
        return set(os.listdir(folder or "."))
    except OSError:
        return set()


def drop_missing(
    records: Sequence[Mapping[str, Any]],
    source: str,
    *,
    sample: bool = False,
    advice: str = "correct IMAGES",
) -> PackedRecords:
    """The records whose image exists. The few others are left out, and `missing_images` returns
    them.

    Args:
        records: dicts with a "file_name". source: the file or folder that lists them, for messages.
        sample: check only a few images, and leave none out. advice: the advice in messages.

    Raises:
        UserError: more than one in a hundred is missing, or one of the sample.
    """
    rows = PackedRecords.of(records)
    asked = rows[:: max(1, len(rows) // _SAMPLE)] if sample else rows
    paths = map(str, asked.column("file_name"))
    if sample:
        missing = [path for path in paths if not _ADDRESS.match(path) and not is_there(path)]
    else:
        missing = missing_files(paths)
    few = not sample and len(missing) <= _TOLERATED * len(rows)
    if missing and not few:
        others = f", like {len(missing) - 1} others of {len(asked)}" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}, listed in {source}, does not exist{relative_to(missing[0])}{others}{_near(missing[0])}: "
            f"{advice}."
        )
    _missing[source] = [] if sample else missing
    gone = set(missing)
    if not gone:
        return rows
    there = (name not in gone for name in rows.column("file_name"))
    return rows.where(np.fromiter(there, dtype=bool, count=len(rows)))


def missing_images(source: str) -> List[str]:
    """The images that the last reading of a source left out."""
    return _missing.get(source, [])


def _near(path: str) -> str:
    """A hint: a broken link, the same name in another case or with another suffix, or one folder
    higher.
    """
    if os.path.islink(path):
        return " (it is a link that leads nowhere)"
    folder, name = os.path.split(path)
    found = next((n for n in sorted(names_in(folder)) if n.lower() == name.lower()), None)
    stem = os.path.splitext(name)[0].lower()
    found = found or next(
        (n for n in sorted(names_in(folder)) if os.path.splitext(n)[0].lower() == stem), None
    )
    if found:
        return f" (the folder holds {found})"
    higher = os.path.join(os.path.dirname(folder), name)
    return f" ({higher} does)" if os.path.exists(higher) else ""
