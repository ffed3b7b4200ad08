"""The contact sheet of a list: each image with the teacher's boxes and the reason for its place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import List, Sequence

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image

from ssod.data.mapper import UnreadableImage, read_image
from ssod.report.contact_sheet import Panel, contact_sheet
from ssod.utils.atomic import write_atomically

_MOST = 60  # pictures


@dataclass(frozen=True)
class Picture:
    """One image with detections (pred_boxes, scores, pred_classes) in pixels of its file."""

    file_name: str
    found: Instances
    why: str


def write_sheet(path: str, pictures: Sequence[Picture], names: Sequence[str]) -> int:
    """Writes a JPEG of the first pictures; returns how many there are on it."""
    cells: List[List[Panel]] = []
    for place, picture in enumerate(pictures[:_MOST]):
        try:
            image = read_image({"file_name": picture.file_name}, "BGR")
        except UnreadableImage:  # it could be read when the detector saw it
            continue
        found = picture.found
        lines = [f"{place + 1}. {os.path.basename(picture.file_name)}", *picture.why.split("; ")]
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        boxes, classes = found.pred_boxes.tensor, found.pred_classes
        cells.append([Panel(pixels, "\n".join(lines), boxes, classes, found.scores, names)])
    if cells:
        sheet = Image.fromarray(contact_sheet(cells))
        write_atomically(path, lambda file: sheet.save(file, format="JPEG", quality=88))
    return len(cells)
