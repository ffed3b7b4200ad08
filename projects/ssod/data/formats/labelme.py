"""LabelMe: one JSON next to each image, with shapes in pixels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Dict, List, Optional

from ssod.data.formats.annotated import AnnotatedSet, ImageLabels, LabelReader, Reading
from ssod.data.formats.geometry import box_around
from ssod.data.formats.images import ImageFolder, ImageNotFound
from ssod.data.formats.registry import register_format
from ssod.data.formats.walk import files_below
from ssod.data.json_file import read_json
from ssod.errors import UserError

# Shapes with an inside. A point or a line has no box.
_AREAS = ("rectangle", "polygon", "mask", "oriented_rectangle", "quadrilateral")
_POLYGONS = ("polygon", "oriented_rectangle", "quadrilateral")


def is_labelme(content: Any) -> bool:
    """Whether the JSON holds the labels of one image."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def shape_box(shape: Dict[str, Any]) -> Optional[List[float]]:
    """XYXY around a shape. [] if its points are not numbers. None if its type has no inside.

    A rectangle's two corners are in the order in which they were drawn. A circle is given by its
    centre and a point of its rim.
    """
    kind = shape.get("shape_type") or "polygon"  # old files have no type
    try:
        points = [(float(x), float(y)) for x, y in shape.get("points") or []]
    except (TypeError, ValueError):
        return []
    if kind == "circle" and len(points) == 2:
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        return [x - radius, y - radius, x + radius, y + radius]
    return box_around(points) if kind in _AREAS else None


@register_format("labelme", required=AnnotatedSet.REQUIRED, optional=AnnotatedSet.OPTIONAL)
@dataclass(frozen=True)
class LabelMeSet(AnnotatedSet):
    """`{FORMAT: labelme, ANNOTATIONS: folder of the JSON files}`. Add IMAGES if the images are
    elsewhere.

    Polygons, circles and masks become the boxes around them. Polygons are masks too. Points and
    lines are skipped and counted.
    """

    def label_files(self) -> List[str]:
        if os.path.isfile(self.annotations):
            raise UserError(
                f"{self.annotations} is a file: name the folder of the JSON files in ANNOTATIONS."
            )
        return files_below(self.annotations, ".json")

    def image_paths(self) -> List[str]:
        return ImageFolder(self.image_root).paths

    def read(self) -> Reading:
        reader = LabelReader(self.annotations, ImageFolder(self.image_root))
        for path in reader.folder.paths:
            reader.add_image(path)
        for file_name in self.label_files():
            content = read_json(file_name)
            if not is_labelme(content):
                continue  # a folder may hold other JSON files
            relative = os.path.relpath(file_name, self.annotations).replace(os.sep, "/")
            entry = _find_image(reader, relative, content)
            if entry is None:
                continue
            reader.mark_labelled_by(entry, relative)
            _add_shapes(reader, entry, relative, content["shapes"])
        return reader.finish()


def _find_image(
    reader: LabelReader, relative: str, content: Dict[str, Any]
) -> Optional[ImageLabels]:
    # The image next to the file comes before the path in the file. Files are renamed and copied
    # together with their images, but the path inside does not change.
    try:
        return reader.add_image(reader.folder.of_stem(relative))
    except ImageNotFound:
        folder = str(PurePosixPath(relative).parent)
        return reader.find_image(str(content.get("imagePath") or relative), folder, relative)


def _add_shapes(reader: LabelReader, entry: ImageLabels, file: str, shapes: List[Any]) -> None:
    for number, shape in enumerate(shapes):
        where = f"{file} shape {number + 1}"
        if not isinstance(shape, dict):
            reader.skipped.add(where, "not a shape")
            continue
        box = shape_box(shape)
        if box is None:
            reader.skipped.add(where, f"of shape {shape['shape_type']}, which has no box")
            continue
        kind = shape.get("shape_type") or "polygon"
        polygon = shape["points"] if box and kind in _POLYGONS else ()
        reader.add_box(entry, shape.get("label"), box, where, polygon=polygon)
