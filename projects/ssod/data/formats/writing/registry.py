"""The annotation tools that labels can be written for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, Dict

from ssod.data.formats.writing.coco import write_coco
from ssod.data.formats.writing.cvat import write_cvat
from ssod.data.formats.writing.label_studio import write_label_studio
from ssod.data.formats.writing.labelme import write_labelme
from ssod.data.formats.writing.labels import LabelSet
from ssod.data.formats.writing.voc import write_voc
from ssod.data.formats.writing.yolo import write_yolo
from ssod.errors import UserError


@dataclass(frozen=True)
class Writer:
    """One value of `--to`.

    Args:
        write: puts labels into a folder. scores: the place of scores in the files. use: what to do
            with the folder, where {0} is its path.
    """

    write: Callable[..., None]
    scores: str
    use: str


WRITERS: Dict[str, Writer] = {
    "cvat": Writer(
        write_cvat,
        "the attribute score of each box",
        "make a task with the labels of {0}/labels.json (Raw) and the files of {0}/images, then upload "
        "{0}/annotations.xml as CVAT 1.1",
    ),
    "labelstudio": Writer(
        write_label_studio,
        "the score of each prediction",
        "make a project with {0}/label_config.xml as its labelling interface, serve {0} as local files, import "
        "{0}/tasks.json",
    ),
    "labelme": Writer(
        write_labelme,
        "description and score of each shape",
        "labelme {0} --labels {0}/labels.txt",
    ),
    "yolo": Writer(
        write_yolo,
        "not kept: a line has no place for them",
        "open {0} in labelImg, or zip and upload it (CVAT: Ultralytics YOLO Detection)",
    ),
    "coco": Writer(
        write_coco,
        "score of each annotation",
        "import {0}/annotations.json with the files of {0}/images",
    ),
    "voc": Writer(
        write_voc,
        "the attribute score of each object; labelImg drops it",
        "open {0}/JPEGImages in labelImg with {0}/Annotations as save folder, or zip and upload {0} "
        "(CVAT: PASCAL VOC)",
    ),
}


def check_output(output: str) -> None:
    """Raises `UserError` unless `output` is a new or empty folder."""
    if os.path.lexists(output) and not os.path.isdir(output):
        raise UserError(f"--output {output} is a file: name a folder.")
    if os.path.isdir(output) and os.listdir(output):
        raise UserError(
            f"{output} is not empty, and may hold corrected labels: name another --output."
        )


def write_labels_for(tool: str, labels: LabelSet, output: str, **more: Any) -> None:
    """Writes the folder for a tool of `WRITERS`. The tool's writer gets `more`.

    Raises:
        UserError: the folder is not empty.
    """
    check_output(output)
    os.makedirs(output, exist_ok=True)
    WRITERS[tool].write(labels, output, **more)
