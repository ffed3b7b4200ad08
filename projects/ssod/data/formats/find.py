"""Looks at a file or folder and returns the entries of `SSOD.DATASETS` that would read it."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Dict, List, Sequence

from ssod.data.coco_content import image_file_name
from ssod.data.formats.csv_table import read_table
from ssod.data.formats.images import ImageFolder, ImageNotFound
from ssod.data.formats.label_studio import image_names, image_of, is_label_studio
from ssod.data.formats.labelme import is_labelme
from ssod.data.formats.walk import files_below
from ssod.data.formats.yolo import looks_like_labels
from ssod.data.formats.yolo_layout import is_class_file, is_data_yaml, label_paths, splits_of
from ssod.data.records import IMAGE_SUFFIXES
from ssod.errors import UserError

# The number of image names that are looked up to find the folder they are relative to.
_TRIED = 8
# The number of XML files that are opened in each folder.
_OPENED = 50
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS.update({"test": "test", "testing": "test", "minival": "val"})


@dataclass(frozen=True)
class FoundSet:
    """An entry of `SSOD.DATASETS` that reads the found files.

    Args:
        split: "train", "val" or "test" if a name says so, otherwise "".
    """

    node: Dict[str, Any]
    split: str = ""

    @property
    def format(self) -> str:
        return str(self.node["FORMAT"])


def find_datasets(path: str) -> List[FoundSet]:
    """All sets that can be read at a path, each once. None if the path has no labels that a FORMAT
    knows.
    """
    if os.path.isdir(path):
        return _in_folder(path)
    if not os.path.isfile(path):
        return []
    return _in_file(path, os.path.dirname(path) or ".")


def split_named(path: str) -> str:
    """The split in the name of a file or of its folder: "train", "val", "test" or ""."""
    for part in reversed(PurePath(path).parts):
        stem = part.lower().replace("-", "_").replace(".", "_")
        for word in reversed(stem.split("_")):
            word = word.rstrip("0123456789")
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _in_folder(folder: str) -> List[FoundSet]:
    found: List[FoundSet] = []
    for path in files_below(folder, ".yaml", ".yml", ".data"):
        found += _yolo_description(path)
    if not found:
        found += _yolo_folder(folder)
    found += _voc(folder)
    labelme = False
    for path in files_below(folder, ".json"):
        content = None if labelme and not _stands_alone(path) else _json(path)
        if is_labelme(content):
            labelme = True
        elif content is not None:
            found += _whole_set(content, path, folder)
    if labelme:
        found.append(FoundSet({"FORMAT": "labelme", "ANNOTATIONS": folder}))
    for path in _first_files(files_below(folder, ".xml")):
        if _root_tag(path) == "annotations":
            found += _cvat(path, folder)
    for path in files_below(folder, ".csv"):
        found += _csv(path, folder)
    return found


def _first_files(paths: Sequence[str]) -> List[str]:
    """The first few files of each folder. Many XML files in one folder are VOC's, and not all of
    them have to be opened.
    """
    seen: Counter = Counter()
    chosen = []
    for path in paths:
        seen[os.path.dirname(path)] += 1
        if seen[os.path.dirname(path)] <= _OPENED:
            chosen.append(path)
    return chosen


def _stands_alone(path: str) -> bool:
    """Whether a JSON file has no image next to it, unlike LabelMe's."""
    stem = os.path.splitext(path)[0]
    return not any(
        os.path.exists(stem + s) for suffix in IMAGE_SUFFIXES for s in (suffix, suffix.upper())
    )


def _in_file(path: str, folder: str) -> List[FoundSet]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".yaml", ".yml", ".data"):
        return _yolo_description(path)
    if suffix == ".json":
        content = _json(path)
        if is_labelme(content):
            return [FoundSet({"FORMAT": "labelme", "ANNOTATIONS": folder})]
        return _whole_set(content, path, folder) if content is not None else []
    if suffix == ".xml":
        tag = _root_tag(path)
        if tag == "annotation":
            own = os.path.basename(os.path.abspath(folder)).lower()
            return _voc(os.path.dirname(folder) or "." if own == "annotations" else folder)
        return _cvat(path, folder) if tag == "annotations" else []
    if suffix == ".csv":
        return _csv(path, folder)
    return _yolo_folder(folder) if suffix == ".txt" else []


def _yolo_description(path: str) -> List[FoundSet]:
    try:
        names = splits_of(path) if path.endswith(".data") or is_data_yaml(path) else []
    except UserError:
        return []
    return [
        FoundSet({"FORMAT": "yolo", "ANNOTATIONS": path, "SPLIT": name}, split_named(name))
        for name in names
    ]


def _yolo_folder(folder: str) -> List[FoundSet]:
    """A folder in which the text file of some image is a label file."""
    for path in files_below(folder, *IMAGE_SUFFIXES):
        for label in label_paths(path):
            if os.path.isfile(label) and not is_class_file(label) and looks_like_labels(label):
                return [FoundSet({"FORMAT": "yolo", "ANNOTATIONS": folder})]
    return []


def _voc(folder: str) -> List[FoundSet]:
    """Finds VOC with lists of splits, and XML files outside of such a root."""
    found: List[FoundSet] = []
    others: List[FoundSet] = []
    roots = []
    for path in files_below(folder, ".txt"):
        lists = os.path.dirname(path)
        if lists.replace(os.sep, "/").endswith("ImageSets/Main"):
            root = os.path.dirname(os.path.dirname(lists)) or "."
            if not os.path.isdir(os.path.join(root, "Annotations")):
                continue
            split = os.path.splitext(os.path.basename(path))[0]
            roots.append(root + os.sep)
            node = {"FORMAT": "voc", "ROOT": root, "SPLIT": split}
            if split in ("trainval", *_SPLITS):
                found.append(FoundSet(node, split_named(split)))
            elif not split_named(split):  # CVAT's default.txt; aeroplane_train.txt lists a class
                others.append(FoundSet(node))
    known = {one.node["ROOT"] for one in found}
    found += [one for one in others if one.node["ROOT"] not in known]
    splits = {(one.node["ROOT"], one.split) for one in found}
    # trainval repeats the images of train and val.
    found = [f for f in found if f.split or (f.node["ROOT"], "train") not in splits]
    for path in files_below(folder, ".xml"):
        if not path.startswith(tuple(roots)) and _root_tag(path) == "annotation":
            found.append(FoundSet({"FORMAT": "voc", "ROOT": folder}))
            break
    return found


def _whole_set(content: Any, path: str, folder: str) -> List[FoundSet]:
    if is_label_studio(content):
        written = [image_of(task) or "" for task in content if isinstance(task, dict)]
        images = _folder_of([image_names(name)[-1] for name in written], path, folder)
        return [FoundSet({"FORMAT": "label_studio", "ANNOTATIONS": path, "IMAGES": images})]
    keys = ("images", "annotations", "categories")
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys):
        names = [image_file_name(i) for i in content["images"] if isinstance(i, dict)]
        images = _folder_of([name for name in names if isinstance(name, str)], path, folder)
        node = {"FORMAT": "coco", "ANNOTATIONS": path, "IMAGES": images}
        return [FoundSet(node, split_named(os.path.relpath(path, folder)))]
    return []


def _cvat(path: str, folder: str) -> List[FoundSet]:
    names = []
    try:
        for _, node in ElementTree.iterparse(path, events=("start",)):
            if node.tag == "image":
                names.append(node.get("name") or "")
    except ElementTree.ParseError:
        pass  # the error of reading says where it is broken
    images = _folder_of(names, path, folder)
    return [FoundSet({"FORMAT": "cvat", "ANNOTATIONS": path, "IMAGES": images})]


def _csv(path: str, folder: str) -> List[FoundSet]:
    try:
        table = read_table(path)
    except UserError:
        return []
    images = _folder_of([row[table.image] for row in table.rows if row], path, folder)
    node = {"FORMAT": "csv", "ANNOTATIONS": path, "IMAGES": images}
    if table.split is None:
        return [FoundSet(node, split_named(os.path.relpath(path, folder)))]
    values = dict.fromkeys(row[table.split].strip() for row in table.rows if len(row) > table.split)
    return [FoundSet({**node, "SPLIT": value}, split_named(value)) for value in values if value]


def _folder_of(names: Sequence[str], path: str, folder: str) -> str:
    """The folder that image names are relative to. It is inside the file's own folder, next to it,
    or further up to `folder`.
    """
    tried = [name for name in names[:: max(1, len(names) // _TRIED)] if name][:_TRIED]
    own = os.path.dirname(path) or "."
    parent = os.path.dirname(own) or "."
    for place in (own, os.path.join(own, "images"), os.path.join(parent, "images"), parent, folder):
        if os.path.isdir(place) and any(os.path.exists(os.path.join(place, n)) for n in tried):
            return place
    images = ImageFolder(folder)
    try:
        for name in tried:
            try:
                found = images.find(name)
            except ImageNotFound:
                continue
            tail = name.replace("\\", "/").lstrip("./")
            if found.endswith(tail):
                return os.path.join(folder, found[: -len(tail)]).rstrip("/")
    except UserError:  # there is no image at all
        pass
    return folder


def _json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def _root_tag(path: str) -> str:
    try:
        for _, node in ElementTree.iterparse(path, events=("start",)):
            return str(node.tag)
    except (OSError, ElementTree.ParseError):
        pass
    return ""
