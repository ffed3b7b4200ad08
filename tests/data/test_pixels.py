"""Bit depths of image files: one range of 8-bit pixels, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from ssod.data.mapper import UnreadableImage, read_image
from ssod.data.pixels import read_pixels

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_eight_bits_are_as_detectron2_reads_them(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(colour).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(colour).save(tmp_path / "plain.png")
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(np.dstack([colour, colour[:, :, :1]])).save(tmp_path / "alpha.png")
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    Image.fromarray(RAMP > 99).save(tmp_path / "bits.png")
    Image.fromarray(colour).save(tmp_path / "palette.gif")
    for path in sorted(tmp_path.iterdir()):
        for image_format in ("BGR", "RGB"):
            expected = detection_utils.read_image(str(path), format=image_format)
            found = read_pixels(str(path), image_format)
            assert found.dtype == np.uint8 and np.array_equal(found, expected), path
    assert read_pixels(str(tmp_path / "turned.jpg"), "BGR").shape == (20, 10, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_range(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    deep = RAMP.astype(np.uint16) * 256 + 77
    Image.fromarray(deep).save(path)
    assert np.array_equal(read_pixels(str(path), "BGR")[:, :, 0], RAMP)
    colour = tmp_path / f"colour{suffix}"
    cv2.imwrite(str(colour), np.dstack([deep, deep // 2, deep * 0]))
    if suffix == ".png":  # Pillow opens no 16-bit colour TIFF
        found = read_pixels(str(colour), "BGR")
        assert np.array_equal(found[:, :, 0], RAMP) and found[:, :, 2].max() == 0
        assert np.array_equal(found[:, :, 1], (deep // 2 // 256).astype(np.uint8))


def test_floats_from_0_to_1(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32) / 255).save(tmp_path / "a.tif")
    assert np.array_equal(read_pixels(str(tmp_path / "a.tif"), "RGB")[:, :, 2], RAMP)


@pytest.mark.parametrize(
    "array, reason",
    [
        (RAMP.astype(np.float32), "outside of"),
        (-RAMP.astype(np.float32) / 255, "outside of"),
        (np.full((4, 4), np.nan, np.float32), "outside of"),
        (RAMP.astype(np.int32), "32-bit integers"),
    ],
)
def test_unknown_ranges_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage) as caught:
        read_image({"file_name": str(tmp_path / "a.tif")}, "BGR")
    assert reason in caught.value.reason and "8 or 16 bits" in caught.value.reason
