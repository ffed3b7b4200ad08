"""The input of writers, and their shared functions.

A writer puts everything that a tool needs into one folder: the labels, and the images as links, so
that the folder can be opened, zipped or uploaded as it is.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Dict, List, Optional, Tuple

from ssod.errors import UserError
from ssod.utils.atomic import write_atomically
from ssod.utils.progress import progress

IMAGES = "images"


@dataclass(frozen=True)
class ScoredBox:
    """Args: label: class index. corners: XYXY in pixels. score: None where a human made the box."""

    label: int
    corners: Tuple[float, float, float, float]
    score: Optional[float] = None


@dataclass
class ScoredImage:
    """An image; `path` is relative to the set's root, with "/"; `size` is (height, width)."""

    path: str
    size: Tuple[int, int]
    boxes: List[ScoredBox] = field(default_factory=list)


@dataclass
class LabelSet:
    """Labelled images below one folder.

    Args:
        source: which model made the labels, for formats that have a place for it.
    """

    root: str
    classes: List[str]
    images: List[ScoredImage]
    source: str = ""

    def __post_init__(self) -> None:
        for text in (*self.classes, *(image.path for image in self.images)):
            if re.search(r"[\x00-\x1f\ud800-\udfff]", text):
                raise UserError(f"{text!r} has characters that label files cannot hold: rename it.")

    def by_label_file(self, suffix: str) -> Dict[str, ScoredImage]:
        """Path of the label file -> image, for formats that have one for each image.

        Images without boxes have no file, because an empty file would say that nothing is on the
        image.

        Raises:
            UserError: two images would share a file.
        """
        paths = [str(PurePosixPath(image.path).with_suffix(suffix)) for image in self.images]
        twice = next((path for path, count in Counter(paths).items() if count > 1), None)
        if twice is not None:
            raise UserError(
                f"Several images would have the label file {twice}: rename one, or write cvat, coco or labelstudio."
            )
        return {path: image for path, image in zip(paths, self.images) if image.boxes}


def link_images(labels: LabelSet, folder: str) -> None:
    """Puts each image at its path below the folder: a link, or a copy where there are no links."""
    for image in progress(labels.images, "linking images"):
        target = os.path.join(folder, image.path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        source = os.path.abspath(os.path.join(labels.root, image.path))
        if os.path.lexists(target):
            os.remove(target)
        try:
            os.symlink(source, target)
        except OSError:
            shutil.copyfile(source, target)


def write_text(path: str, text: str) -> None:
    """Writes a file in UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))
