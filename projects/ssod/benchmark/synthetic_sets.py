"""COCO files of images that do not exist, as large as wanted, to measure what records cost.

Folders hold 10,000 images each. Classes are as unequal as those of large sets: class k has a share
in proportion to 1 / (k + 1).
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Dict, Iterator, Set
from unittest import mock

import numpy as np

from ssod.data import existence

_FOLDER = 10_000
_BLOCK = 10_000
_SIZES = np.array([[480, 640], [640, 480], [427, 640], [500, 375]])


@dataclass(frozen=True)
class SetSizes:
    """Numbers of images, mean boxes of a labelled one, and classes."""

    labeled: int
    unlabeled: int
    boxes: float = 7.3  # COCO's train2017
    classes: int = 80


def write_sets(folder: str, sizes: SetSizes, seed: int = 0) -> Dict[str, Dict[str, str]]:
    """Writes labeled.json and unlabeled.json, and returns their entries of `SSOD.DATASETS`."""
    rng = np.random.default_rng(seed)
    entries = {}
    for name, count in (("labeled", sizes.labeled), ("unlabeled", sizes.unlabeled)):
        path, images = os.path.join(folder, f"{name}.json"), os.path.join(folder, name)
        os.makedirs(images, exist_ok=True)
        with open(path, "wb") as file:
            _write_images(file, count, rng)
            if name == "labeled":
                _write_labels(file, sizes, rng)
            file.write(b"}")
        entries[f"scale_{name}"] = {"FORMAT": "coco", "ANNOTATIONS": path, "IMAGES": images}
    return entries


def file_name(number: int) -> str:
    """The file of image `number`, from 1."""
    return f"{(number - 1) // _FOLDER:06d}/{number:012d}.jpg"


def _write_images(file: BinaryIO, count: int, rng: np.random.Generator) -> None:
    file.write(b'{"images": [')
    for start in range(0, count, _BLOCK):
        chosen = _SIZES[rng.integers(len(_SIZES), size=min(_BLOCK, count - start))].tolist()
        rows = (
            f'{{"id": {n}, "file_name": "{file_name(n)}", "height": {h}, "width": {w}}}'
            for n, (h, w) in enumerate(chosen, start + 1)
        )
        file.write((", " if start else "").encode() + ", ".join(rows).encode())
    file.write(b"]")


def _write_labels(file: BinaryIO, sizes: SetSizes, rng: np.random.Generator) -> None:
    share = 1 / np.arange(1, sizes.classes + 1)
    number, separator = 0, ""
    file.write(b', "annotations": [')
    for start in range(0, sizes.labeled, _BLOCK):
        images = np.arange(start + 1, min(start + _BLOCK, sizes.labeled) + 1)
        images = np.repeat(images, 1 + rng.poisson(sizes.boxes - 1, len(images)))
        classes = 1 + rng.choice(sizes.classes, len(images), p=share / share.sum())
        # Two decimals, as COCO's. They fit into the smallest image.
        boxes = np.round(rng.uniform(5, 180, (len(images), 4)), 2).tolist()
        rows = (
            f'{{"id": {n}, "image_id": {image}, "category_id": {label}, "bbox": {box}, '
            f'"area": {box[2] * box[3] / 2:.4f}, "iscrowd": 0}}'
            for n, (image, label, box) in enumerate(
                zip(images.tolist(), classes.tolist(), boxes), number + 1
            )
        )
        file.write(separator.encode() + ", ".join(rows).encode())
        number, separator = number + len(images), ", "
    categories = [{"id": k, "name": f"class{k}"} for k in range(1, sizes.classes + 1)]
    file.write(b'], "categories": ' + json.dumps(categories).encode())


@contextmanager
def images_assumed() -> Iterator[None]:
    """Inside, each folder of the images is listed as if it held all of its files. Nothing is read
    from disk for it.
    """

    def listed(folder: str) -> Set[str]:
        first = int(os.path.basename(folder)) * _FOLDER + 1
        return {os.path.basename(file_name(n)) for n in range(first, first + _FOLDER)}

    everything: Any = mock.patch.multiple(existence, names_in=listed, is_there=lambda path: True)
    with everything:
        yield
