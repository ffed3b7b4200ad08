"""Reads image files of any bit depth as 8-bit pixels.

16-bit integers are divided by 256, as Pillow does with 16-bit colour images: the type's whole range
becomes 0 to 255. Floating-point images must lie in [0, 1], which becomes 0 to 255. Others (32-bit
integers, floats beyond that range) have an unknown range. They are refused, so that no training
uses clipped images.
"""

from __future__ import annotations

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ssod.data.records import refuse_no_file


def read_pixels(file_name: str, image_format: str) -> np.ndarray:
    """uint8 (H, W, 3), turned by the EXIF tag, equal to the result of Detectron2's `read_image` for
    8-bit files.

    Args:
        image_format: "BGR" or "RGB".

    Raises:
        OSError, ValueError, SyntaxError and others: the file is missing or damaged, or its pixels
        have no known range.
    """
    refuse_no_file(file_name)
    with PathManager.open(file_name, "rb") as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            raise ValueError("it is no image, or of a kind that Pillow does not read") from None
        image = detection_utils._apply_exif_orientation(image)
        return detection_utils.convert_PIL_to_numpy(_eight_bits(image), image_format)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        values = np.asarray(image)
        if image.format == "PNG":  # Pillow before 11.3 opens 16-bit PNG files in this mode
            return Image.fromarray((values >> 8).astype(np.uint8))
        raise ValueError(
            "it has 32-bit integers, whose range is unknown: save it with 8 or 16 bits"
        )
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
            raise ValueError(
                "it has floats outside of [0, 1], whose range is unknown: save it with 8 or 16 bits"
            )
        return Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
    return image
