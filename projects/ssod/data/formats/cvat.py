"""CVAT: one XML for a task or project, in the formats "CVAT for images 1.1" and "CVAT for video
1.1".
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Dict, List, Optional, Set, Tuple

from ssod.data.formats.annotated import AnnotatedSet, ImageLabels, LabelReader, Reading
from ssod.data.formats.geometry import (
    Point,
    box_around,
    box_around_ellipse,
    corners_of,
    ordered,
    rotate,
)
from ssod.data.formats.images import ImageFolder
from ssod.data.formats.registry import register_format
from ssod.data.formats.walk import files_below
from ssod.data.voc import read_xml
from ssod.errors import UserError

# Children of an <image> or <track> that label a region.
_SHAPES = ("box", "polygon", "ellipse", "mask", "cuboid", "skeleton", "polyline", "points")
# Labels of these types have no region, or none with an inside.
_OTHER_LABELS = ("tag", "points", "polyline")


def shape_box(shape: ElementTree.Element) -> Optional[List[float]]:
    """XYXY around a shape, turned by its rotation. [] if a number is missing. None for points and
    lines.
    """
    try:
        return _shape_box(shape)
    except (TypeError, ValueError):  # float(None), float("x")
        return []


def _shape_box(shape: ElementTree.Element) -> Optional[List[float]]:
    def number(key: str) -> float:
        return float(shape.get(key))  # type: ignore[arg-type]

    degrees = float(shape.get("rotation") or 0)
    if shape.tag == "box":
        box = ordered(number("xtl"), number("ytl"), number("xbr"), number("ybr"))
        if not degrees:
            return box
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return box_around(rotate(corners_of(box), degrees, centre))
    if shape.tag == "ellipse":
        return box_around_ellipse(number("cx"), number("cy"), number("rx"), number("ry"), degrees)
    if shape.tag == "mask":
        x, y = number("left"), number("top")
        return [x, y, x + number("width"), y + number("height")]
    if shape.tag == "cuboid":
        keys = [(f"x{side}{i}", f"y{side}{i}") for i in (1, 2) for side in ("tl", "tr", "bl", "br")]
        return box_around([(number(x), number(y)) for x, y in keys])
    if shape.tag == "skeleton":
        points = [p for node in shape.findall("points") for p in _points(node.get("points"))]
        return box_around(points)
    return box_around(_points(shape.get("points"))) if shape.tag == "polygon" else None


def _points(text: Optional[str]) -> List[Point]:
    pairs = (pair.split(",") for pair in (text or "").split(";") if pair)
    return [(float(x), float(y)) for x, y in pairs]


def label_names(root: ElementTree.Element) -> List[str]:
    """The labels that the task or project defines, in its order. Parts of skeletons and tags are
    left out.
    """
    names = []
    for label in root.iterfind("./meta//labels/label"):
        name = (label.findtext("name") or "").strip()
        if name and not label.findtext("parent") and label.findtext("type") not in _OTHER_LABELS:
            names.append(name)
    return list(dict.fromkeys(names))


@register_format("cvat", required=AnnotatedSet.REQUIRED, optional=(*AnnotatedSet.OPTIONAL, "SPLIT"))
@dataclass(frozen=True)
class CvatSet(AnnotatedSet):
    """`{FORMAT: cvat, ANNOTATIONS: annotations.xml, IMAGES: folder}`. SPLIT names a subset of a
    project.

    ANNOTATIONS may be a folder with the XML files of several tasks. Every shape with an inside
    becomes the box around the rotated shape. Polygons are masks too. Points and lines are skipped
    and counted. An image without any shape counts as unlabelled, because CVAT lists every image of
    a task, labelled or not.
    """

    def label_files(self) -> List[str]:
        if os.path.isfile(self.annotations):
            return [self.annotations]
        return [path for path in files_below(self.annotations, ".xml") if _is_cvat(path)]

    def _place_of(self, path: str) -> str:
        """The folder of an XML file, below the folder of the images. Two tasks may each have their
        own images next to their XML file.
        """
        place = os.path.relpath(os.path.dirname(path) or ".", self.image_root)
        return "" if place.startswith("..") else place.replace(os.sep, "/")

    def read(self) -> Reading:
        reader = LabelReader(self.annotations, ImageFolder(self.image_root))
        classes: Dict[str, Tuple[str, ...]] = {}
        subsets: Set[str] = set()
        for path in self.label_files():
            root = read_xml(path)
            if root.tag != "annotations":
                raise UserError(
                    f"{path} is no file of CVAT: its first tag is <{root.tag}>. Export the task as CVAT for images 1.1."
                )
            classes[path] = tuple(label_names(root))
            subsets.update(image.get("subset", "") for image in root.iterfind("image"))
            for image in root.iterfind("image"):
                if not self.split or image.get("subset", "") == self.split:
                    _read_image(reader, image, self._place_of(path))
            _read_tracks(reader, root)
        if self.split and self.split not in subsets:
            known = ", ".join(sorted(filter(None, subsets))) or "none"
            raise UserError(
                f"{self.annotations} has no subset {self.split!r}; its subsets: {known}. Correct SPLIT of {self.name}."
            )
        return reader.finish(_same_classes(classes) if not self.class_names else None)


def _same_classes(found: Dict[str, Tuple[str, ...]]) -> Optional[Tuple[str, ...]]:
    lists = {path: names for path, names in found.items() if names}
    if not lists:
        return None
    first, names = next(iter(lists.items()))
    for path, others in lists.items():
        if others != names:
            raise UserError(
                f"{first} has the labels {', '.join(names)}, {path} has {', '.join(others)}: set CLASSES."
            )
    return names


def _read_image(reader: LabelReader, image: ElementTree.Element, place: str) -> None:
    name = image.get("name") or ""
    entry = reader.find_image(name, place)
    if entry is None:
        return
    for number, shape in enumerate(node for node in image if node.tag in _SHAPES):
        _add_shape(reader, entry, shape, shape.get("label"), f"{name} shape {number + 1}")


def _add_shape(
    reader: LabelReader,
    entry: ImageLabels,
    shape: ElementTree.Element,
    label: Optional[str],
    where: str,
) -> None:
    box = shape_box(shape)
    if box is None:
        reader.mark_labelled(entry)
        reader.skipped.add(where, f"of shape {shape.tag}, which has no box")
    else:
        polygon = _points(shape.get("points")) if box and shape.tag == "polygon" else ()
        reader.add_box(entry, label, box, where, polygon=polygon)


def _read_tracks(reader: LabelReader, root: ElementTree.Element) -> None:
    tracks = root.findall("track")
    if not tracks:
        return
    frames = _images_by_frame(reader.folder)
    for number, track in enumerate(tracks):
        for shape in (node for node in track if node.tag in _SHAPES):
            if shape.get("outside") == "1":  # the object has left the picture
                continue
            frame = shape.get("frame", "")
            where = f"track {track.get('id', number)} frame {frame}"
            if frame not in frames:
                reader.without_image.add(where, "without an image file")
                continue
            entry = reader.add_image(frames[frame])
            _add_shape(reader, entry, shape, track.get("label"), where)


def _images_by_frame(folder: ImageFolder) -> Dict[str, str]:
    """The frame number that a file name ends with, as CVAT names a video's frames:
    frame_000012.PNG.
    """
    frames: Dict[str, str] = {}
    for path in folder.paths:
        number = re.search(r"(\d+)\.\w+$", path)
        if number:
            frames.setdefault(str(int(number.group(1))), path)
    return frames


def _is_cvat(path: str) -> bool:
    try:
        for _, node in ElementTree.iterparse(path, events=("start",)):
            return node.tag == "annotations"
    except (OSError, ElementTree.ParseError):
        pass
    return False
