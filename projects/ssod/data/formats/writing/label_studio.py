"""Label Studio: tasks with predictions, and the labelling interface that shows them."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from typing import Any, Dict, List
from urllib.parse import quote

from ssod.data.formats.writing.labels import IMAGES, LabelSet, link_images, write_text
from ssod.utils.draw import PALETTE

# Names of the control and of the image in the labelling interface.
_CONTROL, _OBJECT = "label", "image"
LOCAL_FILES = f"/data/local-files/?d={IMAGES}/"


def tasks(labels: LabelSet, url: str = LOCAL_FILES) -> List[Dict[str, Any]]:
    """A task for each image.

    Boxes with scores are predictions, which an annotator accepts or changes. The others are
    annotations. Coordinates are percent of the image.

    Args:
        url: the text in front of an image's path with which Label Studio finds the image.
    """
    return [
        {
            "data": {_OBJECT: url + quote(image.path)},
            "predictions": _predictions(labels, number),
            **_annotations(labels, number),
        }
        for number, image in enumerate(labels.images)
    ]


def _results(labels: LabelSet, number: int, scored: bool) -> List[Dict[str, Any]]:
    image = labels.images[number]
    height, width = image.size
    found = []
    for index, box in enumerate(image.boxes):
        if (box.score is not None) != scored:
            continue
        x0, y0, x1, y1 = box.corners
        value = {
            "x": round(100 * x0 / width, 6),
            "y": round(100 * y0 / height, 6),
            "width": round(100 * (x1 - x0) / width, 6),
            "height": round(100 * (y1 - y0) / height, 6),
            "rotation": 0,
            "rectanglelabels": [labels.classes[box.label]],
        }
        result = {
            "id": f"i{number}b{index}",
            "type": "rectanglelabels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value,
        }
        if box.score is not None:
            result["score"] = round(box.score, 6)
        found.append(result)
    return found


def _predictions(labels: LabelSet, number: int) -> List[Dict[str, Any]]:
    found = _results(labels, number, scored=True)
    if not found:
        return []
    # The data manager sorts tasks by this value.
    mean = sum(result["score"] for result in found) / len(found)
    return [{"model_version": labels.source, "score": round(mean, 6), "result": found}]


def _annotations(labels: LabelSet, number: int) -> Dict[str, Any]:
    found = _results(labels, number, scored=False)
    return {"annotations": [{"result": found}]} if found else {}


def interface(classes: List[str]) -> str:
    """The labelling interface in the form of a project's settings."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_OBJECT, value=f"${_OBJECT}")
    control = ElementTree.SubElement(view, "RectangleLabels", name=_CONTROL, toName=_OBJECT)
    for index, name in enumerate(classes):
        colour = "#{:02x}{:02x}{:02x}".format(*PALETTE[index % len(PALETTE)])
        ElementTree.SubElement(control, "Label", value=name, background=colour)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def write_label_studio(labels: LabelSet, output: str, url: str = LOCAL_FILES) -> None:
    """Writes OUTPUT/tasks.json, label_config.xml and images."""
    link_images(labels, os.path.join(output, IMAGES))
    write_text(os.path.join(output, "tasks.json"), json.dumps(tasks(labels, url), indent=1))
    write_text(os.path.join(output, "label_config.xml"), interface(labels.classes))
