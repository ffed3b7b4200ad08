"""CVAT for images 1.1: one XML for all images, and the labels of the task that imports it."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from typing import Any, Dict

from ssod.data.formats.writing.labels import IMAGES, LabelSet, link_images, write_text
from ssod.utils.draw import PALETTE

# The attribute of a box that holds its score.
SCORE = "score"


def _colour(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[index % len(PALETTE)])


def cvat_xml(labels: LabelSet) -> ElementTree.Element:
    """<annotations> with the labels under <meta> and with every image, including those without
    boxes.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "size").text = str(len(labels.images))
    ElementTree.SubElement(task, "mode").text = "annotation"
    listed = ElementTree.SubElement(task, "labels")
    for index, name in enumerate(labels.classes):
        label = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = _colour(index)
        ElementTree.SubElement(label, "type").text = "rectangle"
        attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
        for key, value in _attribute().items():
            text = "\n".join(value) if isinstance(value, list) else str(value)
            ElementTree.SubElement(attribute, key).text = text
    for number, image in enumerate(labels.images):
        height, width = image.size
        node = ElementTree.SubElement(
            root, "image", id=str(number), name=image.path, width=str(width), height=str(height)
        )
        for box in image.boxes:
            corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.2f}" for v in box.corners)))
            attributes = {
                "label": labels.classes[box.label],
                "source": "manual" if box.score is None else "auto",
                "occluded": "0",
                **corners,
                "z_order": "0",
            }
            shape = ElementTree.SubElement(node, "box", attributes)
            if box.score is not None:
                ElementTree.SubElement(shape, "attribute", name=SCORE).text = f"{box.score:.4f}"
    return root


def _attribute() -> Dict[str, Any]:
    """The attribute of a label that holds a score: a text, because CVAT's numbers are whole."""
    return {
        "name": SCORE,
        "mutable": False,
        "input_type": "text",
        "default_value": "",
        "values": [""],
    }


def write_cvat(labels: LabelSet, output: str) -> None:
    """Writes OUTPUT/annotations.xml, labels.json (for CVAT's label constructor, Raw) and images."""
    link_images(labels, os.path.join(output, IMAGES))
    root = cvat_xml(labels)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(
        os.path.join(output, "annotations.xml"), f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'
    )
    described = [
        {"name": name, "type": "rectangle", "color": _colour(i), "attributes": [_attribute()]}
        for i, name in enumerate(labels.classes)
    ]
    write_text(os.path.join(output, "labels.json"), json.dumps(described, indent=1))
