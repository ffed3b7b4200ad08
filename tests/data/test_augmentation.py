from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssod.data.augmentation import StrongAugmentation, add_noise, color_jitter, erase


def _image(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_same_generator_same_result_and_input_untouched() -> None:
    image = _image()
    image.flags.writeable = False
    before = image.copy()
    strong = StrongAugmentation()
    for seed in range(30):
        first = strong(image, np.random.default_rng(seed))
        second = strong(image, np.random.default_rng(seed))
        assert first.dtype == np.uint8 and first.shape == image.shape
        assert np.array_equal(first, second)
        assert not np.may_share_memory(first, image)
    assert np.array_equal(image, before)
    different = {strong(image, np.random.default_rng(seed)).tobytes() for seed in range(10)}
    assert len(different) == 10


def test_reversed_channel_view_is_accepted() -> None:
    image = _image()
    strong = StrongAugmentation()
    flipped = image[:, :, ::-1]
    expected = strong(flipped.copy(), np.random.default_rng(3))
    assert np.array_equal(strong(flipped, np.random.default_rng(3)), expected)


def test_jitter_keeps_grey_pixels_grey() -> None:
    grey = np.full((8, 8, 3), 100, dtype=np.uint8)
    for seed in range(20):
        out = color_jitter(grey, np.random.default_rng(seed)).astype(int)
        assert np.ptp(out, axis=2).max() <= 1


def test_each_jitter_alone() -> None:
    image = np.full((4, 4, 3), (200, 100, 50), dtype=np.uint8)

    class Fixed:
        """Draws a fixed factor for one of the four changes."""

        def __init__(self, values: list) -> None:
            self.values = values

        def uniform(self, low: float, high: float) -> float:
            return self.values.pop(0)

        def permutation(self, n: int) -> list:
            return list(range(n))

    def jitter(*values: float) -> list:
        return color_jitter(image, Fixed(list(values)))[0, 0].tolist()  # type: ignore[arg-type]

    assert jitter(0.5, 1.0, 1.0, 0.0) == [100, 50, 25]
    # Grey value 0.114 * 200 + 0.587 * 100 + 0.299 * 50 = 96.45.
    assert jitter(1.0, 0.5, 1.0, 0.0) == [148, 98, 73]
    assert jitter(1.0, 1.0, 0.0, 0.0) == [96, 96, 96]
    # A third of the colour circle on: what was blue is red, red green, green blue.
    assert jitter(1.0, 1.0, 1.0, 1 / 3) == pytest.approx([100, 50, 200], abs=3)


def test_noise_has_the_asked_deviation() -> None:
    image = np.full((200, 200, 3), 128, dtype=np.uint8)
    noise = add_noise(image, np.random.default_rng(0), 5.0).astype(float) - 128
    assert noise.mean() == pytest.approx(0.0, abs=0.05)
    assert noise.std() == pytest.approx(5.0, abs=0.05)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02
    black = add_noise(np.zeros((50, 50, 3), np.uint8), np.random.default_rng(0), 5.0)
    assert black.max() < 30


def test_erasing_changes_one_rectangle_of_the_asked_size() -> None:
    image = np.full((100, 120, 3), 77, dtype=np.uint8)
    for seed in range(20):
        out = erase(image, np.random.default_rng(seed), (0.1, 0.2), (0.5, 2.0))
        ys, xs = np.nonzero((out != 77).any(axis=2))
        height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
        assert 0.09 < height * width / image[..., 0].size < 0.21
        assert 0.45 < height / width < 2.2
    assert (image == 77).all()


def test_tiny_image() -> None:
    for seed in range(20):
        out = StrongAugmentation()(np.zeros((1, 1, 3), np.uint8), np.random.default_rng(seed))
        assert out.shape == (1, 1, 3)


class Counting:
    """A generator that counts the random numbers that are drawn one by one, in Python or as
    floats.
    """

    def __init__(self, seed: int) -> None:
        self.rng, self.drawn = np.random.default_rng(seed), 0

    def __getattr__(self, name: str) -> Any:
        def draw(*args: Any, **kwargs: Any) -> Any:
            value = getattr(self.rng, name)(*args, **kwargs)
            self.drawn += 1 if isinstance(value, bytes) else int(np.size(value))
            return value

        return draw


def test_draws_no_number_for_every_pixel() -> None:
    """Floating-point noise would take longer than everything else: pixels are drawn as bytes, in
    one go.
    """
    image, strong = _image(200, 300), StrongAugmentation()
    for seed in range(12):
        rng = Counting(seed)
        assert (strong(image, rng) != image).any()  # type: ignore[arg-type]
        assert 0 < rng.drawn < 200
