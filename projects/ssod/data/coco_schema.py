"""Checks a COCO file against a JSON Schema and reports the first error in one line.

The schema requires only what every reader needs. Boxes that cannot be used are skipped and counted.
Ids of annotations, areas and crowd flags may be missing.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Callable, Dict, Tuple

import fastjsonschema

from ssod.errors import UserError

_ID = {"type": ["integer", "string"]}
_SIZE = {"type": ["number", "null"]}
_TEXT = {"type": ["string", "null"]}

_ENTRIES: Dict[str, Dict[str, Any]] = {
    "images": {
        "required": ["id"],
        "properties": {
            "id": _ID,
            "file_name": _TEXT,
            "coco_url": _TEXT,
            "height": _SIZE,
            "width": _SIZE,
        },
    },
    "annotations": {
        "required": ["image_id", "category_id"],
        "properties": {
            "image_id": _ID,
            "category_id": _ID,
            "iscrowd": {"type": ["number", "boolean", "string", "null"]},
        },
    },
    "categories": {
        "required": ["id", "name"],
        "properties": {"id": _ID, "name": {"type": ["string", "number"]}},
    },
}
# The names of entries in messages about missing parts.
_ONE_OF = {
    "images": 'an image without "id" or "file_name"',
    "annotations": 'an annotation without "image_id" or "category_id"',
    "categories": 'a category without "id" or "name"',
}
_ADVICE = {
    "height": "write numbers, or leave them out",
    "width": "write numbers, or leave them out",
    "iscrowd": "write 0 or 1, or leave it out",
}


@lru_cache(maxsize=None)
def _validator(keys: Tuple[str, ...]) -> Callable[[Any], Any]:
    lists = {key: {"type": "array", "items": {"type": "object", **_ENTRIES[key]}} for key in keys}
    schema = {"type": "object", "required": list(keys), "properties": lists}
    return fastjsonschema.compile(schema, use_default=False)


def check_structure(path: str, content: Any, keys: Tuple[str, ...]) -> None:
    """Raises `UserError` if a COCO file's content does not follow the schema.

    Args:
        path: the file in the message. keys: the lists that the file must have.
    """
    try:
        _validator(keys)(content)
    except fastjsonschema.JsonSchemaValueException as error:
        raise UserError(_explain(path, content, keys, error)) from None


def _explain(path: str, content: Any, keys: Tuple[str, ...], error: Any) -> str:
    place = list(error.path[1:])
    if len(place) < 2:
        missing = next(
            key
            for key in keys
            if not isinstance(content, dict) or not isinstance(content.get(key), list)
        )
        return f'{path} has no list "{missing}": it must be a COCO file with {", ".join(keys)}.'
    key, value = place[0], _short(error.value)
    if len(place) == 2 and error.rule == "type":
        return f'{path} has {value} in its list "{key}": each entry is an object.'
    entry = f"{key}[{place[1]}]"
    if error.rule == "required":
        absent = next(name for name in error.rule_definition if name not in error.value)
        return f'{path} has {_ONE_OF[key]} ({entry} has no "{absent}": {value}): add it.'
    name, allowed = place[2], " or ".join(error.rule_definition)
    if name == "file_name":
        return f"{path} has {_ONE_OF[key]} ({entry}: file_name {value}): write a text."
    advice = _ADVICE.get(name, "correct it")
    return f"{path}: {entry} has the {name} {value}, which is no {allowed}: {advice}."


def _short(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "...")
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."
