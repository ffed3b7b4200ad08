"""Label Studio: one JSON for a project, exported as "JSON" or "JSON-MIN". Coordinates are percent
of the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import parse_qs, unquote, urlsplit

from ssod.data.formats.annotated import AnnotatedSet, ImageLabels, LabelReader, Reading
from ssod.data.formats.geometry import box_around, box_around_ellipse, corners_of, rotate
from ssod.data.formats.images import ImageFolder, ImageNotFound
from ssod.data.formats.registry import register_format
from ssod.data.json_file import read_json
from ssod.errors import UserError

# The keys under which a region keeps its class names. Other results (choices, texts, ratings) label
# the whole image.
_LABEL_KEYS = (
    "rectanglelabels",
    "polygonlabels",
    "ellipselabels",
    "brushlabels",
    "keypointlabels",
    "hypertextlabels",
    "labels",
)
_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|webp|tiff?)(\?.*)?$", re.IGNORECASE)
# An uploaded file is stored as eight hexadecimal digits, a dash and its name.
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(.+)$")


def is_label_studio(content: Any) -> bool:
    """Whether the JSON is a list of tasks with an image each."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and image_of(content[0]) is not None
    )


def image_of(task: Dict[str, Any]) -> Optional[str]:
    """The task's image as written in the file: a URL, a storage path or an upload."""
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    texts = [value for value in data.values() if isinstance(value, str)]  # type: ignore[union-attr]
    for key in ("image", "img", "picture", "photo"):
        if isinstance(data.get(key), str):  # type: ignore[union-attr]
            return data[key]  # type: ignore[index]
    return next((text for text in texts if _IMAGE_SUFFIX.search(text)), None)


def image_names(written: str) -> List[str]:
    """The possible names of the image's file, the most likely first.

    "/data/local-files/?d=a/b.jpg" is a/b.jpg; "/data/upload/1/0a1b2c3d-b.jpg" is b.jpg, unless the
    upload itself was copied.
    """
    url = urlsplit(written)
    local = parse_qs(url.query).get("d")
    name = unquote(local[0] if local else url.path if url.scheme or url.query else written)
    folder, _, last = name.rpartition("/")
    upload = _UPLOAD.match(last)
    names = [name.lstrip("/")]
    if upload:
        names.append(upload.group(1))
    return names


def region_box(value: Dict[str, Any], width: float, height: float) -> Optional[List[float]]:
    """XYXY in pixels around a region. [] if a number is missing. None if the region has no box.

    A rectangle is turned clockwise about its top left corner, an ellipse about its centre.
    """
    try:
        return _region_box(value, width / 100, height / 100)
    except (KeyError, TypeError, ValueError):
        return []


def _region_box(value: Dict[str, Any], sx: float, sy: float) -> Optional[List[float]]:
    degrees = float(value.get("rotation") or 0)
    if "points" in value:
        return box_around([(float(x) * sx, float(y) * sy) for x, y in value["points"]])
    if "radiusX" in value:
        centre = float(value["x"]) * sx, float(value["y"]) * sy
        radii = float(value["radiusX"]) * sx, float(value["radiusY"]) * sy
        return box_around_ellipse(*centre, *radii, degrees)
    if "rle" in value or not {"height", "x", "y"} <= value.keys():
        return None
    x, y = float(value["x"]) * sx, float(value["y"]) * sy
    box = [x, y, x + float(value["width"]) * sx, y + float(value["height"]) * sy]
    return box_around(rotate(corners_of(box), degrees, (x, y))) if degrees else box


@register_format("label_studio", required=AnnotatedSet.REQUIRED, optional=AnnotatedSet.OPTIONAL)
@dataclass(frozen=True)
class LabelStudioSet(AnnotatedSet):
    """`{FORMAT: label_studio, ANNOTATIONS: export.json, IMAGES: folder}`.

    If a task has several annotations, the one marked as ground truth counts, otherwise the latest.
    Cancelled annotations and predictions do not count. Polygons and ellipses become the boxes
    around them. Polygons are masks too. Brush strokes and key points are skipped and counted. A
    task without annotations is unlabelled.
    """

    def label_files(self) -> List[str]:
        return [self.annotations]

    def read(self) -> Reading:
        tasks = read_json(self.annotations)
        if not is_label_studio(tasks):
            raise UserError(
                f"{self.annotations} is no export of Label Studio: it must be a list of tasks, as JSON or JSON-MIN."
            )
        reader = LabelReader(self.annotations, ImageFolder(self.image_root))
        for number, task in enumerate(tasks):
            where = (
                f"task {task.get('id', number + 1)}"
                if isinstance(task, dict)
                else f"entry {number + 1}"
            )
            written = image_of(task) if isinstance(task, dict) else None
            entry = _find_image(reader, written, where)
            regions = _regions(task) if isinstance(task, dict) else None
            if entry is None or regions is None:
                continue
            reader.mark_labelled(entry)
            _add_regions(reader, entry, regions, where)
        return reader.finish()


def _find_image(reader: LabelReader, written: Optional[str], where: str) -> Optional[ImageLabels]:
    if written is None:
        reader.without_image.add(where, "without a file name")
        return None
    reason = ""
    for name in image_names(written):
        try:
            return reader.add_image(reader.folder.find(name))
        except ImageNotFound as error:
            reason = reason or str(error)
    reader.without_image.add(f"{where} ({image_names(written)[-1]})", reason)
    return None


def _regions(task: Dict[str, Any]) -> Optional[List[Any]]:
    """The regions that count. None if the task is not labelled."""
    found = task.get("annotations", task.get("completions"))
    if isinstance(found, list):
        done = [a for a in found if isinstance(a, dict) and not a.get("was_cancelled")]
        if not done:
            return None
        best = max(
            done, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or ""))
        )
        result = best.get("result")
        return result if isinstance(result, list) else []
    # In JSON-MIN the regions are under the name of the control, which the labelling interface
    # chooses.
    regions = [v for v in task.values() if isinstance(v, list) and any(map(_is_region, v))]
    return [region for found in regions for region in found] if regions else None


def _is_region(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in _LABEL_KEYS)


def _add_regions(reader: LabelReader, entry: ImageLabels, regions: List[Any], where: str) -> None:
    for number, label, value, size in _labelled(regions):
        place = f"{where} region {number + 1}"
        # The values are percent of the current image, which may have been resized after labelling.
        width, height = entry.size[::-1] if entry.size else size or (0, 0)
        box = region_box(value, width, height)
        if box is None:
            reader.skipped.add(place, "of a shape that has no box")
        else:
            points = value.get("points") if box else None
            polygon = [(float(x) * width / 100, float(y) * height / 100) for x, y in points or ()]
            reader.add_box(entry, label, box, place, polygon=polygon)


def _labelled(regions: List[Any]) -> Iterator[Any]:
    """(number, class, value, (width, height) or None) for each class of each region."""
    for number, region in enumerate(regions):
        if not isinstance(region, dict):
            continue
        value = region.get("value", region)
        if not isinstance(value, dict):
            continue
        key = next((key for key in _LABEL_KEYS if key in value), None)
        if key is None:
            continue  # a choice or text, or the bare shape whose labels stand in another result
        names = value[key] if isinstance(value[key], list) else [value[key]]
        size = region.get("original_width"), region.get("original_height")
        known = all(isinstance(v, (int, float)) and v > 0 for v in size)
        for name in names or [None]:
            yield number, name, value, size if known else None
