"""Reads `SSOD.DATASETS`: NAME: {FORMAT: coco | lvis | voc | folder, ...} (see datasets/README.md)."""

from __future__ import annotations

import difflib
import os
from typing import Any, Dict, Iterable, Mapping, Tuple, Union

from detectron2.config import CfgNode

from ssod.data.coco import CocoSet, LvisSet
from ssod.data.folder import FolderSet
from ssod.data.voc import VocSet
from ssod.errors import UserError

DeclaredSet = Union[CocoSet, VocSet, FolderSet]

# FORMAT: (keys that must be there, keys that may be)
KEYS: Dict[str, Tuple[Tuple[str, ...], Tuple[str, ...]]] = {
    "coco": (("ANNOTATIONS", "IMAGES"), ("TRUTH", "GROUPS")),
    "lvis": (("ANNOTATIONS", "IMAGES"), ("GROUPS",)),
    "voc": (("ROOT", "SPLIT"), ("CLASSES", "TRUTH", "GROUPS")),
    "folder": (("IMAGES",), ("TRUTH",)),
}


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The nearest of the choices as a question, or all of them."""
    listed = sorted(choices)
    close = difflib.get_close_matches(name, listed, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"use one of {', '.join(listed)}." if listed else "there is nothing to choose from."


def resolve_path(path: str) -> str:
    """A leading "datasets/" stands for $DETECTRON2_DATASETS/ where that is set, as in Detectron2."""
    root = os.environ.get("DETECTRON2_DATASETS")
    if root and path.replace(os.sep, "/").startswith("datasets/"):
        path = os.path.join(root, path[len("datasets/") :])
    return os.path.expanduser(path)


def parse_declaration(name: str, node: Any) -> DeclaredSet:
    """One entry of `SSOD.DATASETS`; nothing is read from disk."""
    key = f"SSOD.DATASETS.{name}"
    if not isinstance(node, Mapping):
        raise UserError(
            f"{key} is {node!r}: it must be a mapping such as {{FORMAT: folder, IMAGES: path}}."
        )
    kind = node.get("FORMAT")
    if not isinstance(kind, str) or kind not in KEYS:
        wrong = f"{key}.FORMAT is {kind!r}" if kind is not None else f"{key} has no FORMAT"
        raise UserError(f"{wrong}: {suggestion(str(kind), KEYS)}")
    required, optional = KEYS[kind]
    for found in node:
        if found not in ("FORMAT", *required, *optional):
            raise UserError(
                f"{key}.{found} is unknown to FORMAT {kind}: {suggestion(found, required + optional)}"
            )
    for needed in required:
        if not node.get(needed) or not isinstance(node[needed], str):
            raise UserError(f"{key} needs {needed}, a string, for FORMAT {kind}: add it.")
    for found in ("TRUTH", "GROUPS"):
        if node.get(found) and not isinstance(node[found], str):
            raise UserError(f"{key}.{found} is {node[found]!r}: name a file.")
    truth = resolve_path(node["TRUTH"]) if node.get("TRUTH") else None
    groups = resolve_path(node["GROUPS"]) if node.get("GROUPS") else None
    if kind in ("coco", "lvis"):
        paths = resolve_path(node["ANNOTATIONS"]), resolve_path(node["IMAGES"])
        return (LvisSet if kind == "lvis" else CocoSet)(name, *paths, truth, groups)
    if kind == "folder":
        return FolderSet(name, resolve_path(node["IMAGES"]), truth)
    classes = node.get("CLASSES") or ()
    if not isinstance(classes, (list, tuple)) or len(set(map(str, classes))) != len(classes):
        raise UserError(f"{key}.CLASSES is {classes!r}: it must be a list of different names.")
    return VocSet(
        name, resolve_path(node["ROOT"]), node["SPLIT"], tuple(map(str, classes)), truth, groups
    )


def parse_declarations(cfg: CfgNode) -> Dict[str, DeclaredSet]:
    """All of `SSOD.DATASETS`, by name."""
    return {name: parse_declaration(name, node) for name, node in cfg.SSOD.DATASETS.items()}
