"""Appearance changes of the strong view. The geometry does not change, so boxes of the weak view
stay valid.

Shapes: images are uint8 BGR (H, W, 3), not empty, and are never changed in place.
Everything is a pure function of the image and a NumPy generator.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Optional, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode

# OpenCV's grey: 0.114 B + 0.587 G + 0.299 R.
_GREY = np.array([0.114, 0.587, 0.299], dtype=np.float32)
# For each erased rectangle: the probability, the range of the area (share of the image) and the
# range of the aspect ratio.
_ERASINGS = (
    (0.7, (0.05, 0.2), (0.3, 3.3)),
    (0.5, (0.02, 0.2), (0.1, 6.0)),
    (0.3, (0.02, 0.2), (0.05, 8.0)),
)
_ERASING_ATTEMPTS = 10


def color_jitter(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, in random order.

    Args:
        image: uint8 BGR (H, W, 3).
        brightness, contrast, saturation: each factor is drawn from U(1 - value, 1 + value), not
            below 0.
        hue: the shift is drawn from U(-value, value) of the colour circle.
    """
    factors = [rng.uniform(max(0.0, 1.0 - v), 1.0 + v) for v in (brightness, contrast, saturation)]
    shift = rng.uniform(-hue, hue)
    image = np.ascontiguousarray(image)
    for change in rng.permutation(4):
        if change == 0:
            image = _scale_around(image, factors[0], 0.0)
        elif change == 1:
            mean_grey = float(np.dot(cv2.mean(image)[:3], _GREY))
            image = _scale_around(image, factors[1], mean_grey)
        elif change == 2:
            mix = factors[2] * np.eye(3, dtype=np.float32) + (1.0 - factors[2]) * _GREY
            image = cv2.transform(image, mix.astype(np.float32))
        else:
            image = _shift_hue(image, shift)
    return image


def _scale_around(image: np.ndarray, factor: float, pivot: float) -> np.ndarray:
    """`pivot + factor * (image - pivot)`, through a table of the 256 values."""
    values = pivot + factor * (np.arange(256) - pivot)
    return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """`shift` is a share of the colour circle. `HSV_FULL` maps the circle to 256 values, so uint8
    wraps around as hue does.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


@lru_cache(maxsize=4)
def _noise_table(sigma: float) -> np.ndarray:
    """int16 (65536,): rounded quantiles of N(0, sigma^2). A random 16-bit index draws from the
    distribution.
    """
    levels = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    values = torch.special.ndtri(levels).numpy() * sigma
    return np.clip(np.rint(values), -255, 255).astype(np.int16)


def add_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Adds independent Gaussian noise of standard deviation `sigma` (of 255) to every value.

    Drawing floats would take longer than all other changes together, so random bytes index a table
    of quantiles.
    """
    index = np.frombuffer(rng.bytes(2 * image.size), dtype="<u2")
    noise = _noise_table(sigma).take(index).reshape(image.shape)
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def erase(
    image: np.ndarray,
    rng: np.random.Generator,
    area: Tuple[float, float],
    aspect: Tuple[float, float],
) -> np.ndarray:
    """Fills one random rectangle with random pixels.

    Args:
        area: range of the rectangle's share of the image, uniform.
        aspect: range of its height / width, log-uniform. A rectangle that does not fit is drawn
            again, ten times at most.
    """
    height, width = image.shape[:2]
    for _ in range(_ERASING_ATTEMPTS):
        target = rng.uniform(*area) * height * width
        ratio = float(np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1]))))
        h, w = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
        if 0 < h < height and 0 < w < width:
            y = int(rng.integers(0, height - h + 1))
            x = int(rng.integers(0, width - w + 1))
            fill = np.frombuffer(rng.bytes(h * w * 3), dtype=np.uint8)
            image = image.copy()
            image[y : y + h, x : x + w] = fill.reshape(h, w, 3)
            return image
    return image


class StrongAugmentation:
    """Colour jitter (probability 0.8), grey (0.2), Gaussian blur (0.5), Gaussian noise, and three
    erasings (0.7, 0.5, 0.3).

    Args:
        noise_sigma: standard deviation of the noise, on the scale of 255. 0 turns the noise off.
            color_only: only jitter and grey.
    """

    def __init__(self, noise_sigma: float = 5.0, color_only: bool = False) -> None:
        self.noise_sigma, self.color_only = noise_sigma, color_only

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Optional["StrongAugmentation"]:
        """Builds the augmentation that `SSOD.STRONG_AUGMENTATION` describes. None if it is switched
        off.
        """
        node = cfg.SSOD.STRONG_AUGMENTATION
        return cls(node.NOISE_SIGMA, node.COLOR_ONLY) if node.ENABLED else None

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a new uint8 BGR (H, W, 3) array."""
        out = np.ascontiguousarray(image)
        if rng.random() < 0.8:
            out = color_jitter(out, rng)
        if rng.random() < 0.2:
            out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        if not self.color_only:
            out = self._degrade(out, rng)
        return out.copy() if np.may_share_memory(out, image) else out

    def _degrade(self, out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < 0.5:
            out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.1, 2.0))
        if self.noise_sigma > 0:
            out = add_noise(out, rng, self.noise_sigma)
        for probability, area, aspect in _ERASINGS:
            if rng.random() < probability:
                out = erase(out, rng, area, aspect)
        return out
