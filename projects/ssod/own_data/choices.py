"""Config keys with the reason for each value, and the YAML that they make."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

_WIDTH = 100


@dataclass(frozen=True)
class Choice:
    """One key (with dots) of a config; `why` becomes the comment above it."""

    key: str
    value: Any
    why: str = ""


def render(title: Sequence[str], choices: Sequence[Choice]) -> str:
    """YAML with comments.

    Keys of one section stand together, in the order in which sections first appear.

    Args:
        title: paragraphs of the comment at the top.
    """
    tree: Dict[str, Any] = {}
    for choice in choices:
        node = tree
        *sections, last = choice.key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = choice
    lines = [line for paragraph in title for line in _comment(paragraph, 0)]
    return "\n".join(lines + _lines(tree, 0)) + "\n"


def _lines(tree: Dict[str, Any], depth: int) -> List[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Choice):
            if value.why:
                lines += _comment(value.why, depth)
            lines.append(f"{'  ' * depth}{key}: {_text(value.value)}")
        else:
            lines += [f"{'  ' * depth}{key}:", *_lines(value, depth + 1)]
    return lines


def _comment(text: str, depth: int) -> List[str]:
    indent = "  " * depth + "# "
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _text(value: Any) -> str:
    """A value as YAML on one line. JSON is valid YAML here, except for true and false."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
