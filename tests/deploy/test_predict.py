"""The script beside an exported model: reading, scaling, masks and COCO JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.layers import paste_masks_in_image
from PIL import Image
from pycocotools import mask as coco_mask
from torch import from_numpy

from ssod.data.pixels import read_pixels
from ssod.deploy import predict


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (33, 200), (64, 64), (7, 5)])
@pytest.mark.parametrize("limits", [(32, 64), (64, 64), (100, 133), (0, 50)])
def test_images_are_scaled_as_detectron2_does(size: tuple, limits: tuple) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    augmentation = T.ResizeShortestEdge([limits[0], limits[0]], limits[1])
    expected = augmentation.get_transform(pixels).apply_image(pixels)
    assert np.array_equal(predict.resize(pixels, *limits), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16", "F"])
def test_images_are_read_as_in_training(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    path = tmp_path / ("image.tif" if mode in ("F", "CMYK") else "image.png")
    if mode == "I;16":
        Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(path)
    elif mode == "F":
        Image.fromarray(values[..., 0].astype(np.float32) / 255).save(path)
    else:
        Image.fromarray(values).convert(mode).save(path)
    assert np.array_equal(predict.read_image(path), read_pixels(str(path), "RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    expected = read_pixels(str(tmp_path / "a.png"), "RGB")
    assert np.array_equal(predict.read_image(tmp_path / "a.png"), expected)


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 300.0, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="range"):
        predict.read_image(tmp_path / "a.tif")


def test_masks_are_pasted_as_detectron2_does() -> None:
    rng = np.random.default_rng(3)
    masks = rng.random((4, 28, 28)).astype(np.float32)
    masks = (masks + masks[:, ::-1] + masks[:, :, ::-1]) / 3
    boxes = np.array(
        [[3.2, 4.1, 40.7, 30.3], [-5.0, -5, 20, 70], [10, 10, 12.5, 11.5], [0, 0, 60, 50]],
        dtype=np.float32,
    )
    expected = paste_masks_in_image(from_numpy(masks), from_numpy(boxes), (50, 60), 0.5).numpy()
    for mask, box, wanted in zip(masks, boxes, expected):
        assert (predict.paste(mask, box, 50, 60) >= 0.5).sum() == pytest.approx(wanted.sum(), abs=2)
        assert ((predict.paste(mask, box, 50, 60) >= 0.5) != wanted).sum() <= 2


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (200, 300)])
def test_run_lengths_are_cocos(share: float, shape: tuple) -> None:
    mask = np.random.default_rng(4).random(shape) < share
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = predict.encode(mask)
    assert found == {"size": list(shape), "counts": expected["counts"].decode()}
    assert np.array_equal(coco_mask.decode(found).astype(bool), mask)


def test_names_of_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.JPG", "sub/a.png", "c.txt"):
        (tmp_path / name).touch()
    found = predict.find_images([str(tmp_path)])
    assert list(found) == ["b.JPG", "sub/a.png"]  # relative to the only folder
    single = str(tmp_path / "b.JPG")
    assert list(predict.find_images([single])) == [single]
    both = predict.find_images([single, str(tmp_path / "sub")])
    assert list(both) == [single, str(tmp_path / "sub" / "a.png")]
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        predict.find_images(["nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="has no image"):
        predict.find_images([str(tmp_path / "empty")])
