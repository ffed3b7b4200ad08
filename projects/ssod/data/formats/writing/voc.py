"""VOC's XML files: Annotations/ and JPEGImages/, with whole pixels that count from 1."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import PurePosixPath
from typing import Tuple

from ssod.data.formats.writing.labels import LabelSet, ScoredImage, link_images, write_text


def whole_pixels(low: float, high: float, size: int) -> Tuple[int, int]:
    """The first and the last pixel of a side, counted from 1. There are at least two pixels, as
    readers expect.

    Example:
        >>> whole_pixels(9.6, 20.4, 100)
        (11, 20)
    """
    first = min(max(round(low) + 1, 1), max(1, size - 1))
    return first, min(max(round(high), first + 1), max(size, first + 1))


def voc_xml(image: ScoredImage, classes: list[str]) -> ElementTree.Element:
    """<annotation>. A score is an attribute of its object, as in CVAT and Datumaro."""
    height, width = image.size
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "JPEGImages"
    ElementTree.SubElement(root, "filename").text = PurePosixPath(image.path).name
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "0"
    for box in image.boxes:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = classes[box.label]
        for key, text in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(item, key).text = text
        x0, y0, x1, y1 = box.corners
        (left, right), (top, bottom) = whole_pixels(x0, x1, width), whole_pixels(y0, y1, height)
        place = ElementTree.SubElement(item, "bndbox")
        for key, pixel in (("xmin", left), ("ymin", top), ("xmax", right), ("ymax", bottom)):
            ElementTree.SubElement(place, key).text = str(pixel)
        if box.score is not None:
            attributes = ElementTree.SubElement(item, "attributes")
            attribute = ElementTree.SubElement(attributes, "attribute")
            ElementTree.SubElement(attribute, "name").text = "score"
            ElementTree.SubElement(attribute, "value").text = f"{box.score:.4f}"
    return root


def write_voc(labels: LabelSet, output: str) -> None:
    """Writes OUTPUT/Annotations and OUTPUT/JPEGImages."""
    files = labels.by_label_file(".xml")
    link_images(labels, os.path.join(output, "JPEGImages"))
    os.makedirs(os.path.join(output, "Annotations"), exist_ok=True)
    for path, image in files.items():
        root = voc_xml(image, labels.classes)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode") + "\n"
        write_text(os.path.join(output, "Annotations", path), text)
