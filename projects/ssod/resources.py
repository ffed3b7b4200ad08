"""Files that ssod brings along: its configs, and the script that draws the digit scenes.

In a checkout they lie in its root. A wheel carries copies below `ssod/_resources` (setup.py).
Imports nothing but the standard library.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path, PurePosixPath
from typing import List, Optional

_CONFIGS = "configs"


def root() -> Path:
    """The folder that holds `configs/` and `datasets/`."""
    here = Path(__file__).resolve()
    packaged = here.parent / "_resources"
    return packaged if packaged.is_dir() else here.parents[2]


def config_names() -> List[str]:
    """The packaged configs as they are named on the command line: digit_scenes/best.yaml."""
    folder = root() / _CONFIGS
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def packaged_config(name: str) -> Optional[str]:
    """The path of a packaged config; None if there is none of that name.

    Args:
        name: relative to the folder of all configs, with or without "configs/" before it.
    """
    parts = PurePosixPath(name.replace(os.sep, "/")).parts
    parts = parts[1:] if parts[:1] == (_CONFIGS,) else parts
    if not parts or os.path.isabs(name) or ".." in parts:
        return None
    path = root().joinpath(_CONFIGS, *parts)
    return str(path) if path.is_file() else None


def find_config(name: str) -> str:
    """The file that a name on the command line means: one in the working directory, else a packaged
    one, else the name as it is.
    """
    if not name or os.path.exists(name) or "://" in name:
        return name
    return packaged_config(name) or name


def find_base(path: str, base: str) -> str:
    """The file that a `_BASE_` means: one beside the file that names it, else a packaged one.

    Args:
        path: of the file with the `_BASE_`.
    """
    base = os.path.expanduser(base)
    if os.path.isabs(base) or "://" in base:
        return base
    beside = os.path.join(os.path.dirname(path), base)
    return beside if os.path.exists(beside) else packaged_config(base) or beside


def near_configs(name: str) -> str:
    """What to try in place of a config that does not exist, for a message."""
    names = config_names()
    wanted = name.replace(os.sep, "/").removeprefix(f"{_CONFIGS}/")
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.7)
    for stem in (PurePosixPath(wanted).stem, PurePosixPath(wanted).parent.name):
        if stem and len(close) < 3:
            close += [n for n in names if PurePosixPath(n).stem == stem and n not in close]
    listed = " or ".join(close[:3])
    return (
        f"did you mean the packaged {listed}?" if listed else "`ssod configs` lists those of ssod."
    )


def advice_if_missing(path: str) -> str:
    """What helps where a dataset's file is missing, for a message.

    Example:
        >>> advice_if_missing("mine/labels.json")
        'correct its path or create it'
    """
    drawn = "/digit_scenes/" in f"/{path}".replace(os.sep, "/")
    return "`ssod digit-scenes` draws it" if drawn else "correct its path or create it"
