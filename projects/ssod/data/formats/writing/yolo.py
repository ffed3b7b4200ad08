"""YOLO in Ultralytics' layout: data.yaml, images/ and labels/. A line has no place for a score."""

from __future__ import annotations

import os

import yaml

from ssod.data.formats.writing.labels import (
    IMAGES,
    LabelSet,
    ScoredImage,
    link_images,
    write_text,
)


def yolo_lines(image: ScoredImage) -> str:
    """ "class x y width height" of each box, relative to the image's size."""
    height, width = image.size
    lines = []
    for box in image.boxes:
        x0, y0, x1, y1 = box.corners
        values = (
            (x0 + x1) / 2 / width,
            (y0 + y1) / 2 / height,
            (x1 - x0) / width,
            (y1 - y0) / height,
        )
        lines.append(" ".join([str(box.label), *(f"{value:.6f}" for value in values)]))
    return "".join(f"{line}\n" for line in lines)


def write_yolo(labels: LabelSet, output: str) -> None:
    """Writes OUTPUT/data.yaml, images and labels, and classes.txt for labelImg and Label Studio."""
    files = labels.by_label_file(".txt")
    link_images(labels, os.path.join(output, IMAGES))
    os.makedirs(os.path.join(output, "labels"), exist_ok=True)
    for path, image in files.items():
        write_text(os.path.join(output, "labels", path), yolo_lines(image))
    content = {"train": IMAGES, "val": IMAGES, "names": dict(enumerate(labels.classes))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(os.path.join(output, "data.yaml"), text)
    names = "".join(f"{name}\n" for name in labels.classes)
    write_text(os.path.join(output, "classes.txt"), names)
