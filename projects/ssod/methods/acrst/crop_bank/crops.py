"""Reads rectangles out of image files.

Shapes: crops are uint8 BGR (h, w, 3) and are never changed in place.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Dict, Optional, Sequence, Tuple

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager

from ssod.data.mapper import UnreadableImage
from ssod.data.pixels import read_pixels

_CACHE_BYTES = 64 << 20
# A decoded image of up to this share of the cache is kept whole, because pseudo-boxes move with
# every visit.
_WHOLE_SHARE = 1024
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class FileNames:
    """Strings in one array of bytes. Workers share its pages. In a list of strings, reference
    counts would make each worker copy them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __getitem__(self, index: int) -> str:
        part = self._bytes[self._ends[index] : self._ends[index + 1]]
        return part.tobytes().decode("utf-8", "surrogateescape")


def reduction(scale: float) -> int:
    """The factor (1, 2, 4 or 8) by which decoding may reduce a file whose crop is later scaled.

    A JPEG decoder then does less work. The rest of the scaling to `scale` is done afterwards.
    """
    factor = 1
    while factor < 8 and 2 * factor * scale <= 1.0:
        factor *= 2
    return factor


class CropReader:
    """Reads crops and caches the latest ones. It caches the whole image if the image is small.

    Args:
        cache_bytes: size of the cache. The crops do not depend on it.
    """

    def __init__(self, cache_bytes: int = _CACHE_BYTES) -> None:
        self.cache_bytes = cache_bytes
        self._cache: "OrderedDict[Tuple[Any, ...], np.ndarray]" = OrderedDict()
        self._held = 0

    def __getstate__(self) -> Dict[str, Any]:
        return {"cache_bytes": self.cache_bytes, "_cache": OrderedDict(), "_held": 0}

    def __call__(
        self, file_name: str, box: Tuple[int, int, int, int], size: Tuple[int, int], factor: int
    ) -> np.ndarray:
        """The crop, reduced by `factor`. It has at least one pixel.

        Args:
            box: whole pixels of the full image, not empty. size: the (height, width) that the file
                should have.

        Raises:
            UnreadableImage: the file is missing, damaged or of another size.
        """
        crop = self._known((file_name, box, factor))
        if crop is not None:
            return crop
        image = self._known((file_name, factor))
        if image is None:
            image = self._open(file_name, size, factor)
        x0 = min(box[0] // factor, image.shape[1] - 1)
        y0 = min(box[1] // factor, image.shape[0] - 1)
        x1, y1 = max(x0 + 1, round(box[2] / factor)), max(y0 + 1, round(box[3] / factor))
        crop = image[y0:y1, x0:x1]
        if not self._whole(image):
            crop = crop.copy()
            self._remember((file_name, box, factor), crop)
        return crop

    def _whole(self, image: np.ndarray) -> bool:
        return image.nbytes <= self.cache_bytes // _WHOLE_SHARE

    def _open(self, file_name: str, size: Tuple[int, int], factor: int) -> np.ndarray:
        image = _decode(file_name, factor)
        height, width = (-(-side // factor) for side in size)
        if abs(image.shape[0] - height) > 1 or abs(image.shape[1] - width) > 1:
            found = f"{image.shape[1] * factor}x{image.shape[0] * factor}"
            raise UnreadableImage(file_name, f"it is {found} now and was {size[1]}x{size[0]}")
        if self._whole(image):
            self._remember((file_name, factor), image)
        return image

    def _known(self, key: Tuple[Any, ...]) -> Optional[np.ndarray]:
        pixels = self._cache.get(key)
        if pixels is not None:
            self._cache.move_to_end(key)
        return pixels

    def _remember(self, key: Tuple[Any, ...], pixels: np.ndarray) -> None:
        if pixels.nbytes > self.cache_bytes // 8:
            return
        self._cache[key] = pixels
        self._held += pixels.nbytes
        while self._held > self.cache_bytes:
            self._held -= self._cache.popitem(last=False)[1].nbytes


def _decode(file_name: str, factor: int) -> np.ndarray:
    """Returns the image as uint8 BGR, turned by its EXIF tag."""
    try:
        with PathManager.open(file_name, "rb") as file:
            content = np.frombuffer(file.read(), dtype=np.uint8)
        image = cv2.imdecode(content, _REDUCED[factor]) if content.size else None
        if image is None:  # a format that only Pillow knows, or no image
            image = read_pixels(file_name, "BGR")[::factor, ::factor]
    except Exception as error:  # decoders may raise anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(file_name, reason) from None
    return image
