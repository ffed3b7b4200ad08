"""Finds keys that a YAML file gives twice, and keys that are not text. YAML's readers keep the last
of two values and say nothing.
"""

from __future__ import annotations

from typing import Any, List, Optional, Set

import yaml
from detectron2.utils.file_io import PathManager

from ssod.engine.config_files import BASE
from ssod.errors import UserError
from ssod.resources import find_base


def check_duplicate_keys(path: str) -> None:
    """Raises `UserError` for the first key that occurs twice in one mapping, and for the first key
    that is not text, such as 7 or `yes`. It checks `path` and the files below it (`_BASE_`).

    A file that cannot be read or parsed is skipped, because the function that loads it reports the
    error.
    """
    _check(path, set())


def _check(path: str, seen: Set[str]) -> None:
    if path in seen:
        return
    seen.add(path)
    try:
        with PathManager.open(path, "r") as file:
            root = yaml.compose(file.read(), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    found = _duplicate(root, "", set())
    if found is not None:
        raise UserError(f"{path} {found}.")
    for base in _bases(root):
        _check(find_base(path, base), seen)


def _duplicate(node: Any, prefix: str, seen: Set[int]) -> Optional[str]:
    if id(node) in seen:  # an anchor that is used again
        return None
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            found = _duplicate(item, prefix, seen)
            if found:
                return found
    if not isinstance(node, yaml.MappingNode):
        return None
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            kind = key.tag.rsplit(":", 1)[-1]
            return f"has the key {prefix}{key.value} in line {line}, which YAML reads as {kind}: write it in quotes"
        if key.value in lines:
            return f"gives {prefix}{key.value} twice, in lines {lines[key.value]} and {line}: keep one of them"
        lines[key.value] = line
        found = _duplicate(value, f"{prefix}{key.value}.", seen)
        if found:
            return found
    return None


def _bases(root: Any) -> List[str]:
    """The files that `_BASE_` names, one or several."""
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if isinstance(key, yaml.ScalarNode) and key.value == BASE:
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            return [item.value for item in items if isinstance(item, yaml.ScalarNode)]
    return []
