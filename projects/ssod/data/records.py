"""Detectron2's dataset dicts. Image sizes are read only when they are needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_EXIF_ORIENTATION = 0x0112


def read_image_size(file_name: str) -> Tuple[int, int]:
    """(height, width) from the image's header, turned by its EXIF tag, as Detectron2 will decode
    it.

    Raises:
        OSError: the file is missing or its header is broken.
    """
    refuse_no_file(file_name)
    try:
        with Image.open(file_name) as image:
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
    except OSError:
        raise
    except (
        Exception
    ) as error:  # Pillow's decoders raise SyntaxError, ValueError and more on broken headers
        raise OSError(f"{file_name}: {error}") from error
    return height, width


def refuse_no_file(path: str) -> None:
    """Raises `OSError` for a pipe, a socket or a device. Reading one may never end."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(f"{path} is no file, but a pipe, a socket or a device")


class Record(dict):
    """A dataset dict. If "height" and "width" are not given, they come from the image header on
    first use.

    So training on a folder of 100,000 images starts at once. An unreadable file counts as square
    here. The loader replaces and reports it when it is drawn.
    """

    def __missing__(self, key: str) -> Any:
        if key not in ("height", "width"):
            raise KeyError(key)
        try:
            self["height"], self["width"] = read_image_size(self["file_name"])
        except OSError:
            self["height"], self["width"] = 1, 1
        return self[key]


def trained_annotations(record: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """A record's annotations without those of crowds. Empty if the record has no labels."""
    return [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def trained_classes(record: Mapping[str, Any]) -> List[int]:
    """The classes of the boxes that are trained on."""
    return [a["category_id"] for a in trained_annotations(record)]


def is_image(path: str) -> bool:
    return Path(path).suffix.lower() in IMAGE_SUFFIXES
