"""Reads JSON files, and says in one line what is wrong with a file."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Tuple

from ssod.errors import UserError, relative_to
from ssod.resources import advice_if_missing


def read_json(path: str) -> Any:
    """The content of a JSON file in UTF-8, -16 or -32, with or without a byte order mark.

    Raises:
        UserError: the file is missing, empty, truncated or otherwise broken.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist{relative_to(path)}: {advice_if_missing(path)}."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct its path.") from None
    if not data.strip():
        raise UserError(f"{path} is empty: write or download it again.")
    if data.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not the file itself: run git lfs pull.")
    try:
        content = json.loads(data)
        twice = _list_twice(data, content)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UserError(
            f"{path} is not valid JSON ({error}); it may be truncated: write or download it again."
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a COCO file: write it again.") from None
    if twice is not None:
        raise UserError(f'{path} has "{twice}" twice, and only one would be read: merge them.')
    return content


def _list_twice(data: bytes, content: Any) -> Optional[str]:
    """The name of a list that the outermost object of a COCO file has twice."""
    keys = [key for key in ("images", "annotations", "categories") if f'"{key}"'.encode() in data]
    if not isinstance(content, dict) or all(data.count(f'"{key}"'.encode()) < 2 for key in keys):
        return None
    outermost: List[str] = []

    def note(pairs: List[Tuple[str, Any]]) -> None:
        outermost[:] = [key for key, _ in pairs]

    json.loads(data, object_pairs_hook=note)  # the outermost object is the last one that it calls
    return next((key for key in keys if outermost.count(key) > 1), None)


def object_under(content: Any, key: str) -> Dict[str, Any]:
    """The JSON object under a key. {} if there is none, or something else."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, dict) else {}


def file_stamp(path: str) -> Tuple[int, int]:
    """Changes when a file does: the time of its last change, in nanoseconds, and its size."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
