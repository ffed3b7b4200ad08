"""The places of the parts of a YOLO dataset: Ultralytics' data.yaml, Darknet's obj.data, or a
folder alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import yaml

from ssod.data.formats.walk import files_below
from ssod.data.records import IMAGE_SUFFIXES, is_image
from ssod.errors import UserError

# Files with one class name per line. labelImg, Label Studio, Darknet, CVAT and Roboflow write them.
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
# Names that tools give to the same split.
_SAME = {
    "val": ("valid", "validation"),
    "valid": ("val", "validation"),
    "validation": ("val", "valid"),
    "test": ("testing",),
    "testing": ("test",),
}
_IMAGE_FOLDERS = ("images", "JPEGImages")


@dataclass(frozen=True)
class Layout:
    """The parts of one split.

    Args:
        root: the folder that holds all parts. places: folders and lists of images. names: the
            classes.
        files: the files that were read. keypoint_values: numbers after the box in a pose label.
    """

    root: str
    places: Tuple[str, ...]
    names: Tuple[str, ...]
    files: Tuple[str, ...]
    keypoint_values: int = 0

    def image_files(self) -> List[str]:
        """Paths of the split's images, sorted."""
        return [path for path in self._images() if os.path.exists(path)]

    def missing_files(self) -> List[str]:
        """Images that the split lists and that do not exist."""
        return [path for path in self._images() if not os.path.exists(path)]

    def _images(self) -> List[str]:
        found: Dict[str, None] = {}
        for place in self.places:
            if os.path.isdir(place):
                found.update(dict.fromkeys(files_below(place, *IMAGE_SUFFIXES)))
            elif is_image(place):
                found[place] = None
            else:
                found.update(dict.fromkeys(_listed_images(place, self.root)))
        return sorted(found)


def label_paths(image: str) -> List[str]:
    """The possible label files of an image: the last `images` of its path becomes `labels`, or the
    label is next to the image.
    """
    stem = os.path.splitext(image)[0].replace(os.sep, "/")
    parts = stem.split("/")
    paths = []
    for name in _IMAGE_FOLDERS:
        if name in parts[:-1]:
            at = len(parts) - 2 - parts[:-1][::-1].index(name)
            paths.append("/".join([*parts[:at], "labels", *parts[at + 1 :]]) + ".txt")
    return [*paths, stem + ".txt", "/".join([*parts[:-1], "labels", parts[-1]]) + ".txt"]


def read_layout(annotations: str, split: str, images: str, name: str) -> Layout:
    """The layout that a file or a folder describes.

    Raises:
        UserError: there is no layout, or no such split.
    """
    if os.path.isdir(annotations):
        described = _description_in(annotations)
        if described is None:
            return _folder_layout(annotations, split, images, name)
        annotations = described
    files: Tuple[str, ...] = (annotations,)
    values = 0
    if is_yaml(annotations):
        content = read_yolo_yaml(annotations)
        root = _yaml_root(annotations, content)
        names = class_names(annotations, content)
        _names_of(_class_files(root), names, annotations)
        shape = content.get("kpt_shape")
        values = shape[0] * shape[1] if isinstance(shape, list) and len(shape) == 2 else 0
    elif annotations.lower().endswith(".data"):
        root = os.path.dirname(annotations) or "."
        names_file = find_below(root, _options(annotations).get("names", "obj.names"))
        names, files = read_names(names_file), (annotations, names_file)
    else:
        raise UserError(
            f"{annotations} is neither a data.yaml, nor an obj.data, nor a folder: name one of them."
        )
    splits = splits_of(annotations)
    places = images and [images] or _places(annotations, root, splits, split, name)
    lists = [place for place in places if os.path.isfile(place) and not is_image(place)]
    return Layout(root, tuple(places), names, (*files, *lists), values)


def splits_of(path: str) -> Dict[str, List[Any]]:
    """The splits of a data.yaml or obj.data: name -> folders or lists of images."""
    content = read_yolo_yaml(path) if is_yaml(path) else _options(path)
    return {
        key: value if isinstance(value, list) else [value]
        for key, value in content.items()
        if key in ("train", *_SAME) and value
    }


def is_yaml(path: str) -> bool:
    return path.lower().endswith((".yaml", ".yml"))


def is_class_file(path: str) -> bool:
    """Whether a file has one class name per line, according to its name."""
    return os.path.basename(path) in CLASS_FILES or path.endswith(".names")


def _options(path: str) -> Dict[str, str]:
    """The lines "key = value" of an obj.data."""
    pairs = (line.partition("=") for line in _text(path).splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_yolo_yaml(path: str) -> Dict[str, Any]:
    """The mapping in a data.yaml."""
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not ("names" in content or "nc" in content):
        raise UserError(
            f"{path} is not a data.yaml of YOLO: it has no names. Add the list of names, or correct ANNOTATIONS."
        )
    return content


def class_names(path: str, content: Dict[str, Any]) -> Tuple[str, ...]:
    """The classes of a data.yaml: a list, or a mapping from every index to a name."""
    names, number = content.get("names"), content.get("nc")
    if names is None and isinstance(number, int):
        return tuple(f"class{i}" for i in range(number))  # as Ultralytics calls them
    if isinstance(names, dict):
        try:
            by_index = {int(key): value for key, value in names.items()}
        except (TypeError, ValueError):
            raise UserError(f"{path} has names whose keys are no numbers: write 0: name.") from None
        if sorted(by_index) != list(range(len(by_index))):
            raise UserError(
                f"{path} names the classes {', '.join(map(str, sorted(by_index)))}: count from 0 without gaps."
            )
        names = [by_index[i] for i in range(len(by_index))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path} has no list of names: add it.")
    if isinstance(number, int) and number != len(names):
        raise UserError(f"{path} has nc {number}, but {len(names)} names: make them agree.")
    return _different(path, [str(name).strip() for name in names])


def read_names(path: str) -> Tuple[str, ...]:
    """Reads one class name per line. Trailing empty lines do not count."""
    return _different(path, [line.strip() for line in _text(path).strip().splitlines()])


def _different(path: str, names: List[str]) -> Tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} names the class {twice!r} twice: rename one.")
    return tuple(names)


def find_below(root: str, written: str) -> str:
    """The file or folder below `root` that belongs to a path written by another machine.

    The path is tried as it is, then below the root, then without its first parts one by one:
    Roboflow writes "../train/images", Darknet and CVAT "data/train.txt", notebooks
    "/content/set/images".
    """
    name = written.strip().replace("\\", "/")
    if os.path.isabs(name) and os.path.exists(name):
        return os.path.normpath(name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for start in range(len(parts)):
        path = os.path.normpath(os.path.join(root, *parts[start:]))
        if os.path.exists(path):
            return path
    return os.path.normpath(os.path.join(root, name))


def _yaml_root(path: str, content: Dict[str, Any]) -> str:
    folder = os.path.dirname(path) or "."
    written = content.get("path")
    if not isinstance(written, str) or not written.strip():
        return folder
    root = find_below(folder, written)
    return root if os.path.isdir(root) else folder


def _places(
    annotations: str, root: str, splits: Dict[str, List[Any]], split: str, name: str
) -> List[str]:
    wanted = split or ("train" if "train" in splits else next(iter(splits), ""))
    key = next((key for key in (wanted, *_SAME.get(wanted, ())) if key in splits), None)
    if key is None:
        have = f"its splits: {', '.join(splits)}" if splits else "it names no splits"
        raise UserError(f"{annotations} has no split {wanted!r}; {have}. Correct SPLIT of {name}.")
    places = [find_below(root, str(value)) for value in splits[key]]
    for place in places:
        if not os.path.exists(place):
            raise UserError(f"{place}, the {key} of {annotations}, does not exist: correct it.")
    return places


def _listed_images(path: str, root: str) -> List[str]:
    """The images of a list file, one path a line."""
    found = []
    for line in _text(path).splitlines():
        if line.strip():
            image = find_below(os.path.dirname(path) or ".", line)
            found.append(image if os.path.exists(image) else find_below(root, line))
    if not any(os.path.exists(image) for image in found):
        first = found[0] if found else "it is empty"
        raise UserError(
            f"{path} lists {len(found)} images, none of which exists: {first}. Correct the paths in it."
        )
    return found


def _description_in(folder: str) -> Any:
    """The data.yaml or obj.data in a folder, or None."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if is_yaml(name) and is_data_yaml(path):
            return path
        if name.lower().endswith(".data") and "names" in _text(path):
            return path
    return None


def is_data_yaml(path: str) -> bool:
    """Whether a YAML file names classes and splits."""
    try:
        content = read_yolo_yaml(path)
    except UserError:
        return False
    return any(key in content for key in ("train", "val", "valid", "test"))


def _folder_layout(folder: str, split: str, images: str, name: str) -> Layout:
    place = images or folder
    if split:
        choices = [
            os.path.join(folder, *parts)
            for parts in ((split, "images"), ("images", split), (split,))
        ]
        found = next((path for path in choices if os.path.isdir(path)), None)
        if found is None:
            raise UserError(
                f"{folder} has no folder {split} or images/{split}: correct SPLIT of {name}."
            )
        place = found
    class_files = _class_files(folder)
    return Layout(images or folder, (place,), _names_of(class_files), tuple(class_files))


def _class_files(folder: str) -> List[str]:
    return [
        path for path in files_below(folder, ".txt", ".names", ".labels") if is_class_file(path)
    ]


def _names_of(
    paths: Sequence[str], described: Tuple[str, ...] = (), source: str = ""
) -> Tuple[str, ...]:
    """The longest list of classes. The others must be its beginning, because labelImg writes a list
    that grows.

    Args:
        described: the list of `source`, which comes first.

    Raises:
        UserError: two lists give the same number to different classes.
    """
    longest, first = described, source
    for path in paths:
        names = read_names(path)
        common = min(len(names), len(longest))
        if names[:common] != longest[:common]:
            raise UserError(
                f"{first} names the classes {', '.join(longest)}, {path} names {', '.join(names)}: "
                "make them equal, or the same number means two things."
            )
        if len(names) > len(longest):
            longest, first = names, path
    return longest


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct its path or create it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): name another file.") from None
