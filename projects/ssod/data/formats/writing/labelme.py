"""LabelMe: one JSON next to each image."""

from __future__ import annotations

import json
import os
from pathlib import PurePosixPath
from typing import Any, Dict

from ssod.data.formats.writing.labels import (
    LabelSet,
    ScoredBox,
    ScoredImage,
    link_images,
    write_text,
)

_VERSION = "5.4.1"  # of the files


def _shape(box: ScoredBox, classes: list[str]) -> Dict[str, Any]:
    x0, y0, x1, y1 = (round(value, 3) for value in box.corners)
    shape: Dict[str, Any] = {
        "label": classes[box.label],
        "points": [[x0, y0], [x1, y1]],
        "group_id": None,
        "description": "" if box.score is None else f"score {box.score:.4f}",
        "shape_type": "rectangle",
        "flags": {},
        "mask": None,
    }
    # LabelMe keeps keys that it does not know. X-AnyLabeling shows this one.
    return shape if box.score is None else {**shape, "score": round(box.score, 6)}


def labelme_content(image: ScoredImage, classes: list[str]) -> Dict[str, Any]:
    """The labels of one image, which is next to the file."""
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": [_shape(box, classes) for box in image.boxes],
        "imagePath": PurePosixPath(image.path).name,
        "imageData": None,
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
    }


def write_labelme(labels: LabelSet, output: str) -> None:
    """Writes OUTPUT with images and JSON files in one folder, and labels.txt with the classes."""
    files = labels.by_label_file(".json")
    link_images(labels, output)
    for path, image in files.items():
        content = labelme_content(image, labels.classes)
        write_text(os.path.join(output, path), json.dumps(content, indent=1))
    names = ["__ignore__", "_background_", *labels.classes]
    write_text(os.path.join(output, "labels.txt"), "".join(f"{name}\n" for name in names))
