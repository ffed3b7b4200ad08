"""Reads the dataset to divide, whatever its format, as one COCO dict."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any, Dict, List, Set, Tuple


@dataclass
class Source:
    """The dataset to divide, as one COCO dict; `majority` has the images of --majority-from,
    `shared` their classes.
    """

    coco: Dict[str, Any]
    majority: Set[Any] = field(default_factory=set)
    shared: Set[Any] = field(default_factory=set)


def read_source(args: argparse.Namespace) -> Source:
    from ssod.data.folder import FolderSet
    from ssod.data.merge import merge_coco, voc_to_coco

    if args.voc:
        return Source(voc_to_coco(args.voc, args.voc_split, tuple(args.classes or ())))
    if args.data:
        return Source(_read_data(args))
    if args.folder:
        paths = FolderSet("--folder", args.folder).relative_paths()
        images = [{"id": i + 1, "file_name": path} for i, path in enumerate(paths)]
        return Source({"images": images, "annotations": [], "categories": []})
    if args.majority_from:
        return _read_two_datasets(args)
    return Source(merge_coco([file_and_folder(entry) for entry in args.coco]))


def _read_data(args: argparse.Namespace) -> Dict[str, Any]:
    from ssod.own_data.choose import read_chosen
    from ssod.own_data.collection import to_coco

    collection = read_chosen(args.data, args)
    for message in collection.messages:
        print(f"note: {message}")
    print(f"IMAGES: {collection.root}")
    return to_coco(collection, collection.photos)


def _read_two_datasets(args: argparse.Namespace) -> Source:
    from ssod.data.class_lists import COCO_TO_OBJECTS365
    from ssod.data.merge import merge_coco
    from ssod.data.settings import match_classes, translate

    majority = file_and_folder(args.majority_from)
    shared: Set[Any] = set()
    count = 0

    def in_their_classes(
        path: str, content: Dict[str, Any], categories: List[Dict[str, Any]]
    ) -> Dict[str, Any]:
        nonlocal count
        if path != majority[0]:
            return content
        target = match_classes(content["categories"], categories, COCO_TO_OBJECTS365, path)
        shared.update(target.values())
        content = translate(content, target, categories)
        count = len(content["images"])
        return content

    entries = [*map(file_and_folder, args.coco), majority]
    coco = merge_coco(entries, in_their_classes)
    images = coco["images"]
    return Source(coco, {image["id"] for image in images[len(images) - count :]}, shared)


def file_and_folder(entry: str) -> Tuple[str, str]:
    path, _, folder = entry.partition("=")
    return path, folder
