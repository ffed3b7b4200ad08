"""YOLO: one text file per image with lines "class x y width height", relative to the image's
size.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Dict, List, Optional, Set, Tuple

from ssod.data.formats.annotated import AnnotatedSet, LabelReader, Reading
from ssod.data.formats.geometry import Point, box_around
from ssod.data.formats.images import ImageFolder
from ssod.data.formats.registry import register_format
from ssod.data.formats.yolo_layout import Layout, is_class_file, label_paths, read_layout
from ssod.data.records import is_image
from ssod.errors import UserError

# A centre may lie a little outside the image, but a value of this size is a number of pixels.
_LARGEST = 2.0


def parse_line(line: str, keypoint_values: int = 0) -> Optional[Tuple[int, List[float]]]:
    """(class index, relative XYXY) of a line. None if it is not a label.

    Five numbers are class, centre and size. A sixth is a score or a track. Seven and more are the
    class and a polygon. A polygon with four corners is an oriented box. If there are
    `keypoint_values` numbers more than five, these are key points.
    """
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        return None
    if len(numbers) < 5 or not math.isfinite(numbers[0]) or numbers[0] != int(numbers[0]):
        return None
    index = int(numbers[0])
    if len(numbers) <= 6 or (keypoint_values and len(numbers) == 5 + keypoint_values):
        x, y, width, height = numbers[1:5]
        return index, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(numbers) % 2 == 0:  # a polygon and its score
        numbers.pop()
    return index, box_around(list(zip(numbers[1::2], numbers[2::2])))


def parse_polygon(line: str, keypoint_values: int = 0) -> List[Point]:
    """The relative points of a line (see `parse_line`) that has a polygon. [] for any other
    line.
    """
    numbers = [float(word) for word in line.split()]
    if len(numbers) <= 6 or (keypoint_values and len(numbers) == 5 + keypoint_values):
        return []
    return list(zip(numbers[1::2], numbers[2::2]))


@register_format("yolo", required=AnnotatedSet.REQUIRED, optional=(*AnnotatedSet.OPTIONAL, "SPLIT"))
@dataclass(frozen=True)
class YoloSet(AnnotatedSet):
    """`{FORMAT: yolo, ANNOTATIONS: data.yaml, SPLIT: train}`, Darknet's obj.data, or a folder with
    classes.txt.

    Labels are found as Ultralytics and Darknet find them: in `labels/` if the image is in
    `images/`, otherwise next to the image. An empty file says that nothing is on the image. An
    image without a file counts as unlabelled.
    """

    def layout(self) -> Layout:
        return read_layout(self.annotations, self.split, self.images, self.name)

    @property
    def image_root(self) -> str:
        return self.images or self.layout().root

    def label_files(self) -> List[str]:
        layout = self.layout()
        labels = (_existing_label(path) for path in layout.image_files())
        return sorted({path for path in (*layout.files, *labels) if path})

    def image_paths(self) -> List[str]:
        layout = self.layout()
        return sorted(_relative(path, layout) for path in layout.image_files())

    def read(self) -> Reading:
        layout = self.layout()
        names = list(self.class_names or layout.names)
        if not names:
            raise UserError(
                f"{self.annotations} names no classes: set CLASSES of {self.name}, or add classes.txt with one name a line."
            )
        reader = LabelReader(self.annotations, ImageFolder(layout.root))
        outside = 0
        for path in layout.image_files():
            entry = reader.add_image(_relative(path, layout))
            label_file = _existing_label(path)
            if label_file is None:
                continue
            reader.mark_labelled(entry)
            for number, line in enumerate(_lines(label_file)):
                where = f"{os.path.basename(label_file)} line {number + 1}"
                parsed = parse_line(line, layout.keypoint_values)
                if parsed is None:
                    reader.skipped.add(where, "not a line of class x y width height")
                    continue
                index, box = parsed
                if not 0 <= index < len(names):
                    raise UserError(
                        f"{label_file} line {number + 1} has the class {index}, but {self.annotations} names "
                        f"{len(names)} classes, 0 to {len(names) - 1}: add the missing names."
                    )
                if max(map(abs, box)) > _LARGEST:
                    outside += 1
                    reader.skipped.add(where, "not relative to the image's size")
                    continue
                if entry.size is None:
                    reader.skipped.add(where, "of an unreadable image")
                    continue
                height, width = entry.size
                corners = [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
                polygon = [
                    (x * width, y * height) for x, y in parse_polygon(line, layout.keypoint_values)
                ]
                reader.add_box(entry, names[index], corners, where, polygon=polygon)
        _check_relative(reader, outside)
        for missing in layout.missing_files():
            reader.without_image.add(missing, "of a list without an image file")
        for orphan in _labels_without_image(layout):
            reader.without_image.add(orphan, "without an image file")
        return reader.finish(names)


def _relative(path: str, layout: Layout) -> str:
    return os.path.relpath(path, layout.root).replace(os.sep, "/")


def _check_relative(reader: LabelReader, outside: int) -> None:
    usable = sum(len(entry.boxes or ()) for entry in reader.entries.values())
    if outside > usable:
        raise UserError(
            f"{reader.source}: {outside} of {outside + usable} boxes have values above {_LARGEST:g}, such as "
            f"{reader.skipped.examples[0]}: YOLO's are relative to the image's size, these look like pixels."
        )


def _existing_label(image: str) -> Optional[str]:
    return next((path for path in label_paths(image) if os.path.isfile(path)), None)


def _lines(path: str) -> List[str]:
    """The lines with content."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return [line for line in file.read().splitlines() if line.strip()]


def _labels_without_image(layout: Layout) -> List[str]:
    """Label files in the folders of the set's labels that belong to no image."""
    known: Set[str] = set()
    folders: Dict[str, None] = {}
    # The list of a split may leave out images. Their labels do belong to an image.
    for folder in {os.path.dirname(image) for image in layout.image_files()}:
        for name in filter(is_image, os.listdir(folder or ".")):
            paths = label_paths(os.path.join(folder, name))
            known.update(paths)
            folders.update(dict.fromkeys(os.path.dirname(path) for path in paths))
    orphans = []
    for folder in filter(os.path.isdir, folders):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if not name.endswith(".txt") or name.startswith(".") or is_class_file(path):
                continue
            if path not in known and path not in layout.files and looks_like_labels(path):
                orphans.append(_relative(path, layout))
    return sorted(orphans)


def looks_like_labels(path: str) -> bool:
    """Whether each of the first lines is a label. An empty file may be a label file."""
    return all(parse_line(line) for line in _lines(path)[:5])
