"""Reads `SSOD.DATASETS`: NAME: {FORMAT: coco | voc | yolo | ..., ...} (see datasets/README.md)."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from detectron2.config import CfgNode

from ssod.data import coco, folder, voc  # noqa: F401  (each registers its formats)
from ssod.data.formats import csv_table, cvat, label_studio, labelme, yolo  # noqa: F401
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
    """One entry of `SSOD.DATASETS`; nothing is read from disk."""
    key = f"SSOD.DATASETS.{name}"
    if not isinstance(node, Mapping):
        raise UserError(
            f"{key} is {node!r}: it must be a mapping such as {{FORMAT: folder, IMAGES: path}}."
        )
    kind = node.get("FORMAT")
    if not isinstance(kind, str) or kind not in FORMATS:
        wrong = f"{key}.FORMAT is {kind!r}" if kind is not None else f"{key} has no FORMAT"
        raise UserError(f"{wrong}: {suggestion(str(kind), FORMATS)}")
    known = FORMATS[kind]
    for found in node:
        if found not in ("FORMAT", *known.required, *known.optional):
            choices = known.required + known.optional
            raise UserError(
                f"{key}.{found} is unknown to FORMAT {kind}: {suggestion(found, choices)}"
            )
    for needed in known.required:
        if not node.get(needed) or not isinstance(node[needed], str):
            raise UserError(f"{key} needs {needed}, a string, for FORMAT {kind}: add it.")
    try:
        return known.kind.from_node(name, node)
    except UserError as error:
        raise UserError(f"{key}.{error}") from None


def parse_declarations(cfg: CfgNode) -> Dict[str, DeclaredSet]:
    """All of `SSOD.DATASETS`, by name."""
    return {name: parse_declaration(name, node) for name, node in cfg.SSOD.DATASETS.items()}
