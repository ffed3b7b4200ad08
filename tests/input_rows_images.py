"""Images as users have them. See `input_case.Row`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import cv2
import numpy as np
from PIL import Image

from input_case import Case, Change, Row, unchanged
from input_changes import chain


def image_bytes(path: str, data: Callable[[bytes], bytes]) -> Change:
    def run(case: Case) -> None:
        file = case.root / path
        file.write_bytes(data(file.read_bytes()))

    return run


def without_val_image(case: Case) -> None:
    case.val["images"] = [i for i in case.val["images"] if i["id"] != 2]
    case.val["annotations"] = [a for a in case.val["annotations"] if a["image_id"] != 2]


def all_images(save: Callable[[np.ndarray, Path], None], suffix: str = ".png") -> Change:
    """Saves every image of the training and the test set anew: `save(BGR, path)`."""

    def run(case: Case) -> None:
        for name in ("train", "val"):
            for path in sorted((case.root / name).iterdir()):
                image = cv2.imread(str(path))
                path.unlink()
                save(image, path.with_suffix(suffix))
            for image in getattr(case, name)["images"]:
                image["file_name"] = str(Path(image["file_name"]).with_suffix(suffix))

    return run


def val_image_a_pipe(case: Case) -> None:
    path = case.root / VAL
    path.unlink()
    os.mkfifo(path)


def grey(image: np.ndarray) -> np.ndarray:
    return image.max(axis=2)


def save_tiff(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array).save(path)


def one_val_image(save: Callable[[np.ndarray, Path], None], suffix: str = ".tif") -> Change:
    def run(case: Case) -> None:
        path = case.root / "val" / "001.png"
        save(cv2.imread(str(path)), path.with_suffix(suffix))
        case.val["images"][1]["file_name"] = "001" + suffix

    return run


def as_rgba(image: np.ndarray, path: Path) -> None:
    Image.fromarray(np.dstack([image[:, :, ::-1], np.full(image.shape[:2], 9, np.uint8)])).save(
        path
    )


def as_palette(image: np.ndarray, path: Path) -> None:
    Image.fromarray(grey(image)).convert("P").save(path)


def save_32_bits(case: Case, image: Dict[str, Any]) -> None:
    image["file_name"] = Path(image["file_name"]).stem + ".tif"
    save_tiff(np.zeros((64, 64), np.int32), case.root / "val" / image["file_name"])


def damage_all(name: str) -> Change:
    def run(case: Case) -> None:
        for path in (case.root / name).iterdir():
            path.write_bytes(path.read_bytes()[:60])

    return run


GREY = all_images(lambda image, path: cv2.imwrite(str(path), grey(image)))
VAL = "val/001.png"
SKIPPED = {"like": without_val_image, "images": 1, "says": ("001", "left out of the evaluation")}
ROWS: List[Row] = [
    Row("image: cut off", image_bytes(VAL, lambda b: b[:200]), **SKIPPED),
    Row("image: empty", image_bytes(VAL, lambda b: b""), **SKIPPED),
    Row("image: a web page", image_bytes(VAL, lambda b: b"<html>404</html>"), **SKIPPED),
    Row(
        "image: Git LFS",
        image_bytes(VAL, lambda b: b"version https://git-lfs.github.com/spec/v1\n"),
        **SKIPPED,
    ),
    Row(
        "image: a folder",
        chain(lambda c: os.remove(c.at(VAL)), lambda c: os.mkdir(c.at(VAL))),
        **SKIPPED,
    ),
    Row(
        "image: other size",
        one_val_image(lambda i, p: cv2.imwrite(str(p), i[:32]), ".png"),
        **SKIPPED,
    ),
    Row(
        "image: sides swapped", lambda c: c.val["images"][1].update(height=128, width=64), **SKIPPED
    ),
    Row(
        "image: floats to 255",
        one_val_image(lambda i, p: save_tiff(grey(i).astype(np.float32), p)),
        **SKIPPED,
    ),
    Row(
        "image: float NaN",
        one_val_image(lambda i, p: save_tiff(np.full((64, 64), np.nan, np.float32), p)),
        **SKIPPED,
    ),
    Row(
        "image: 32-bit",
        one_val_image(lambda i, p: save_tiff(grey(i).astype(np.int32), p)),
        **SKIPPED,
    ),
    Row(
        "images: all tests damaged", damage_all("val"), refused=("Not one of the 5 images of val",)
    ),
    Row(
        "images: all tests of 32 bits",
        lambda c: [save_32_bits(c, image) for image in c.val["images"]],
        refused=("Not one of the 5 images of val", "32-bit"),
    ),
    Row(
        "images: all training damaged", damage_all("train"), refused=("train/00", "cannot be read")
    ),
    Row("images: one training damaged", image_bytes("train/001.png", lambda b: b[:200]), boxes=-1),
    Row("image: pipe", val_image_a_pipe, **SKIPPED),
    Row("images: grey", GREY),
    Row(
        "images: 16 bits",
        all_images(lambda i, p: cv2.imwrite(str(p), grey(i).astype(np.uint16) * 257)),
        like=GREY,
    ),
    Row(
        "images: 16-bit colour",
        all_images(lambda i, p: cv2.imwrite(str(p), i.astype(np.uint16) * 257)),
        like=unchanged,
    ),
    Row(
        "images: 16-bit TIFF",
        all_images(lambda i, p: save_tiff(grey(i).astype(np.uint16) * 257, p), ".tif"),
        like=GREY,
    ),
    Row(
        "images: floats",
        all_images(lambda i, p: save_tiff(grey(i).astype(np.float32) / 255, p), ".tif"),
        like=GREY,
    ),
    Row("images: transparent", all_images(as_rgba), like=unchanged),
    Row("images: palette", all_images(as_palette)),
    Row(
        "images: wrong suffix",
        all_images(lambda i, p: Image.fromarray(i[:, :, ::-1]).save(p, "bmp"), ".jpg"),
        like=unchanged,
    ),
]
