"""Chooses the datasets in a folder that a command works on, by the options that the user gave."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Sequence

from ssod.data.declarations import parse_declaration
from ssod.data.formats.find import FoundSet, find_datasets, split_named
from ssod.data.formats.registry import FORMATS, DeclaredSet, suggestion
from ssod.errors import UserError
from ssod.own_data.collection import Collection, collect

KNOWN = "COCO, VOC, YOLO, CVAT, LabelMe, Label Studio or CSV"


def find_chosen(path: str, args: argparse.Namespace) -> List[FoundSet]:
    """The sets at a path that fit `args` (of `ssod.own_data.options`); all of one format.

    Raises:
        UserError: the path does not exist, or nothing there fits.
    """
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: name a folder of images, or a file of labels.")
    return _of_one_format(path, find_in_folder(path, args))


def find_in_folder(path: str, args: argparse.Namespace) -> List[FoundSet]:
    """The sets at a path that fit `args`, of any format.

    Raises:
        UserError: nothing there fits.
    """
    if args.format and args.format not in FORMATS:
        raise UserError(f"--format {args.format}: {suggestion(args.format, FORMATS)}")
    found = find_datasets(path)
    if args.format:
        found = [one for one in found if one.format == args.format] or [_declared(path, args)]
    if not found:
        raise UserError(
            f"{path} has no labels of {KNOWN}. Label some of the images first, or name the --format."
        )
    return _with_options(found, args)


def _declared(path: str, args: argparse.Namespace) -> FoundSet:
    """An entry made of the options alone, for a set that `find_datasets` does not recognise."""
    required = FORMATS[args.format].required
    node: Dict[str, Any] = {"FORMAT": args.format, required[0]: path}
    if "IMAGES" in required[1:] and not args.images:
        raise UserError(
            f"--format {args.format} needs --images too: name the folder of the images."
        )
    return FoundSet(node)


def _of_one_format(path: str, found: Sequence[FoundSet]) -> List[FoundSet]:
    formats = Counter(one.format for one in found)
    if len(formats) > 1:
        raise UserError(
            f"{path} has labels of {' and '.join(sorted(formats))}: choose with --format, or name one file."
        )
    return list(found)


def _with_options(found: Sequence[FoundSet], args: argparse.Namespace) -> List[FoundSet]:
    sets = []
    for one in found:
        known = FORMATS[one.format]
        node = dict(one.node)
        for key, value in (("IMAGES", args.images), ("CLASSES", args.classes)):
            if not value:
                continue
            if key not in (*known.required, *known.optional):
                raise UserError(f"--{key.lower()} means nothing to {one.format}: leave it out.")
            node[key] = value
        sets.append(FoundSet(node, one.split))
    wanted = getattr(args, "split", None)
    if not wanted:
        return sets
    chosen = [one for one in sets if wanted in (one.node.get("SPLIT"), one.split)]
    if chosen:
        return chosen
    names = sorted({str(one.node.get("SPLIT") or one.split) for one in sets} - {""})
    if not names and len(sets) == 1 and "SPLIT" in FORMATS[sets[0].format].optional:
        return [FoundSet({**sets[0].node, "SPLIT": wanted}, split_named(wanted))]
    raise UserError(
        f"There is no split {wanted!r}; the splits: {', '.join(names) or 'none'}. Correct --split."
    )


def read_chosen(path: str, args: argparse.Namespace) -> Collection:
    """All images of the sets that `find_chosen` gives, and no others."""
    found = find_chosen(path, args)
    sets = [(parse_declaration(path, one.node), one.split) for one in found]
    if getattr(args, "masks", False):
        sets = [(read_with_masks(dataset), split) for dataset, split in sets]
    roots = {str(dataset.metadata()["image_root"]) for dataset, _ in sets}
    root = roots.pop() if len(roots) == 1 else common_folder(roots)
    return collect(sets, root, [one.format for one in found])


def read_with_masks(dataset: DeclaredSet) -> DeclaredSet:
    """The set as training with `MODEL.MASK_ON` reads it.

    Raises:
        UserError: its format has no masks.
    """
    if not hasattr(dataset, "masks"):
        raise UserError(f"{dataset.source} is of a format without masks: leave them out.")
    return replace(dataset, masks=True)  # type: ignore[type-var]


def common_folder(folders: Iterable[str]) -> str:
    """The deepest folder that holds all of them, relative where they are."""
    return os.path.relpath(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
