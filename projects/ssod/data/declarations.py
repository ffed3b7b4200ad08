"""Reads `SSOD.DATASETS`: NAME: {FORMAT: coco | voc | yolo | ..., ...} (see datasets/README.md)."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from detectron2.config import CfgNode

from ssod.data import coco, folder, voc  # noqa: F401  (each registers its formats)
from ssod.data.formats import csv_table, cvat, label_studio, labelme, yolo  # noqa: F401
from ssod.data.formats.hint import right_format
from ssod.data.formats.registry import FORMATS, DeclaredSet, resolve_path, suggestion
from ssod.errors import UserError

__all__ = [
    "DeclaredSet",
    "parse_declaration",
    "parse_declarations",
    "resolve_path",
    "suggestion",
]


def parse_declaration(name: str, node: Any) -> DeclaredSet:
    """Reads one entry of `SSOD.DATASETS`. Nothing is read from disk."""
    key = f"SSOD.DATASETS.{name}"
    if not isinstance(node, Mapping):
        raise UserError(
            f"{key} is {node!r}: it must be a mapping such as {{FORMAT: folder, IMAGES: path}}."
        )
    kind = node.get("FORMAT")
    try:
        return _parse(name, node, kind)
    except UserError as error:
        # The files are looked at only now, so that a message can name the right FORMAT.
        paths = [resolve_path(v) for k, v in node.items() if k != "FORMAT" and isinstance(v, str)]
        images = node.get("IMAGES") if len(paths) > 1 else None
        hint = right_format(str(kind), paths, images if isinstance(images, str) else "")
        raise UserError(f"{key}{error}{hint or ''}") from None


def _parse(name: str, node: Mapping[str, Any], kind: Any) -> DeclaredSet:
    """The messages of its errors continue `SSOD.DATASETS.<name>`."""
    if kind is None:
        raise UserError(f" has no FORMAT: {suggestion('', FORMATS)}")
    if not isinstance(kind, str) or kind not in FORMATS:
        raise UserError(f".FORMAT is {kind!r}: {_suggest_format(str(kind))}")
    known = FORMATS[kind]
    for found in node:
        if found not in ("FORMAT", *known.required, *known.optional):
            choices = suggestion(found, known.required + known.optional)
            raise UserError(f".{found} is unknown to FORMAT {kind}: {choices}")
    if type(node.get("SPLIT")) is int:  # YAML reads `SPLIT: 2007` as a number
        node = {**node, "SPLIT": str(node["SPLIT"])}
    for needed in known.required:
        if not node.get(needed) or not isinstance(node[needed], str):
            raise UserError(f" needs {needed}, a string, for FORMAT {kind}: add it.")
    try:
        return known.kind.from_node(name, node)
    except UserError as error:
        raise UserError(f".{error}") from None


def _suggest_format(kind: str) -> str:
    """For names such as yolov8 or pascal_voc, the format that is part of them."""
    inside = [name for name in FORMATS if name in kind.lower()]
    return suggestion(max(inside, key=len) if inside else kind.lower(), FORMATS)


def parse_declarations(cfg: CfgNode) -> Dict[str, DeclaredSet]:
    """All of `SSOD.DATASETS`, by name."""
    return {name: parse_declaration(name, node) for name, node in cfg.SSOD.DATASETS.items()}
