"""Draws single digit scenes, for `digit_scenes.py`.

The order of the random draws is part of the dataset: another order gives other scenes.

Shapes: image (H, W, 3) uint8 BGR, or float64 in [0, 1] while it is being drawn; box [x0, y0, x1,
y1], integers; mask (H, W) bool.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from numpy.random import RandomState

SIDE = 128
NUM_CLASSES = 10
INK = 0.35  # a pixel with more opacity belongs to the digit
WILD_SEED = 3
DISTRACTORS = ("letters", "shapes", "clutter")


@dataclass(frozen=True)
class Split:
    """One set of scenes: how many, from which seed, by which writers, and whether all digits are
    equally frequent.
    """

    images: int
    seed: int
    writers: str
    balanced: bool


@dataclass(frozen=True)
class Options:
    """What may differ from the published dataset."""

    labeled: int = 100
    unlabeled: int = 1900
    imbalance: float = 0.7
    sizes: Tuple[int, ...] = (14, 18, 24, 32, 44, 60)
    seed: int = 0

    def splits(self) -> Dict[str, Split]:
        return {
            "labeled": Split(self.labeled, self.seed + 1, "train", False),
            "unlabeled": Split(self.unlabeled, self.seed + 2, "train", False),
            "val": Split(200, self.seed + 500, "test", True),
            "test": Split(200, self.seed + 999, "test", True),
        }

    def class_frequencies(self) -> np.ndarray:
        """(10,) float64, sums to 1."""
        falling = self.imbalance ** np.arange(NUM_CLASSES)
        return falling / falling.sum()


@dataclass
class Scene:
    image: np.ndarray
    boxes: List[List[int]]
    classes: List[int]
    masks: List[np.ndarray]


@functools.lru_cache(maxsize=None)
def handwriting() -> Dict[str, List[np.ndarray]]:
    """For "train" and "test" writers: ten arrays (n, 8, 8) in [0, 1], the samples of each digit in
    a fixed order.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    shuffled = RandomState(0).permutation(len(digits.target))
    parts = {"train": shuffled[:1200], "test": shuffled[1200:]}
    return {
        name: [digits.images[part[digits.target[part] == k]] / 16.0 for k in range(NUM_CLASSES)]
        for name, part in parts.items()
    }


def background(rng: RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """A textured canvas (H, W, 3) and its base colour (3,)."""
    base = rng.rand(3) * 0.6 + 0.1
    rows, columns = rng.randint(3, 12), rng.randint(3, 12)
    texture = cv2.resize(rng.rand(rows, columns, 3), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(base * 0.6 + 0.4 * texture, 0, 1), base


def add_lines(rng: RandomState, canvas: np.ndarray) -> None:
    for _ in range(rng.randint(2, 8)):
        ends = rng.randint(0, SIDE, 2), rng.randint(0, SIDE, 2)
        colour, thickness = rng.rand(3), rng.randint(1, 4)
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), colour.tolist(), int(thickness))


def ink_mask(rng: RandomState, glyph: np.ndarray, size: int) -> np.ndarray:
    """The glyph scaled to (size, size) and slightly turned, as opacity in [0, 1]."""
    mask = cv2.resize(glyph, (size, size), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-15, 15), 1)
    return cv2.warpAffine(np.clip(mask, 0, 1), turn, (size, size))


def contrasting_colour(rng: RandomState, base: np.ndarray) -> np.ndarray:
    colour = rng.rand(3)
    if abs(colour.mean() - base.mean()) >= 0.25:
        return colour
    if abs((1 - colour).mean() - base.mean()) > 0.2:
        return 1 - colour
    return np.full(3, 1.0 if base.mean() < 0.45 else 0.0)


def blend(canvas: np.ndarray, mask: np.ndarray, x: int, y: int, colour: np.ndarray) -> None:
    height, width = mask.shape
    window = canvas[y : y + height, x : x + width]
    opacity = mask[..., None]
    window[...] = window * (1 - opacity) + colour * opacity


def crowded(box: Sequence[int], others: Iterable[Sequence[int]]) -> bool:
    """Whether the box shares more than a tenth of the smaller area with any other."""

    def area(b: Sequence[int]) -> int:
        return (b[2] - b[0]) * (b[3] - b[1])

    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0 and width * height > 0.1 * min(area(box), area(other)):
            return True
    return False


def finish(rng: RandomState, canvas: np.ndarray) -> np.ndarray:
    """Sensor noise, then uint8."""
    return (np.clip(canvas + rng.randn(SIDE, SIDE, 3) * 0.03, 0, 1) * 255).astype(np.uint8)


def draw_scene(
    rng: RandomState,
    digits: List[np.ndarray],
    frequencies: Optional[np.ndarray],
    sizes: Sequence[int],
) -> Scene:
    """Draws one scene of 2 to 6 digits.

    The order of the random draws is part of the dataset: another order gives other scenes.

    Args:
        digits: the glyphs to choose from, of one group of writers (see `handwriting`).
        frequencies: (10,) of the classes; None for equal ones.
        sizes: sides of a glyph in pixels, chosen uniformly.
    """
    canvas, base = background(rng)
    wanted = rng.randint(2, 7)
    add_lines(rng, canvas)
    boxes: List[List[int]] = []
    classes: List[int] = []
    masks: List[np.ndarray] = []
    for _ in range(wanted * 3):  # attempts
        if len(boxes) == wanted:
            break
        digit = int(rng.choice(NUM_CLASSES, p=frequencies))
        glyph = digits[digit][rng.choice(len(digits[digit]))]
        size = int(rng.choice(sizes))
        mask = ink_mask(rng, glyph, size)
        rows, columns = np.nonzero(mask > INK)
        if len(rows) < 8:
            continue
        x, y = (int(v) for v in (rng.randint(0, SIDE - size + 1), rng.randint(0, SIDE - size + 1)))
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
        box = [int(v) for v in (x + low[0], y + low[1], x + high[0], y + high[1])]
        if crowded(box, boxes):
            continue
        blend(canvas, mask, x, y, contrasting_colour(rng, base))
        boxes.append(box)
        classes.append(digit)
        masks = [*(hidden_by(other, mask, x, y) for other in masks), placed(mask, x, y)]
    return Scene(finish(rng, canvas), boxes, classes, masks)


def placed(opacity: np.ndarray, x: int, y: int) -> np.ndarray:
    """A digit's mask in the scene."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + opacity.shape[0], x : x + opacity.shape[1]] = opacity > INK
    return mask


def hidden_by(mask: np.ndarray, opacity: np.ndarray, x: int, y: int) -> np.ndarray:
    """A mask without the pixels that a later digit covers."""
    return mask & ~placed(opacity, x, y)


def draw_split(split: Split, options: Options) -> Iterator[Scene]:
    """The scenes of a split, in order; one generator runs through all, so scene n needs those
    before it.
    """
    rng = RandomState(split.seed)
    frequencies = None if split.balanced else options.class_frequencies()
    for _ in range(split.images):
        yield draw_scene(rng, handwriting()[split.writers], frequencies, options.sizes)


def draw_distractor(rng: RandomState, kind: str, sizes: Sequence[int]) -> Scene:
    """A scene without digits; `kind` is one of DISTRACTORS."""
    canvas, base = background(rng)
    add_lines(rng, canvas)
    for _ in range(0 if kind == "clutter" else rng.randint(2, 7)):
        size = int(rng.choice(sizes))
        mask = np.zeros((size, size))
        corners = rng.randint(0, size, (rng.randint(3, 6), 2)).astype(np.int32)
        if kind == "letters":
            cv2.polylines(mask, [corners], bool(rng.randint(2)), 1.0, max(1, size // 8))
            mask = cv2.GaussianBlur(mask, (0, 0), size / 24)
        elif rng.randint(2):
            cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1.0)
        else:
            axes = (rng.randint(size // 4, size // 2), rng.randint(size // 4, size // 2))
            cv2.ellipse(mask, (size // 2, size // 2), axes, 0, 0, 360, 1.0, -1)
        x, y = rng.randint(0, SIDE - size + 1, 2)
        blend(canvas, mask, int(x), int(y), contrasting_colour(rng, base))
    return Scene(finish(rng, canvas), [], [], [])


def draw_wild(count: int, options: Options) -> Iterator[Tuple[str, Scene]]:
    """(kind, scene) pairs in random order: `count // 2` of kind "scene", the others distractors of
    equal shares.
    """
    rng = RandomState(options.seed + WILD_SEED)
    others = count - count // 2
    kinds = ["scene"] * (count // 2) + [DISTRACTORS[i % len(DISTRACTORS)] for i in range(others)]
    for i in rng.permutation(count):
        if kinds[i] == "scene":
            digits, frequencies = handwriting()["train"], options.class_frequencies()
            yield "scene", draw_scene(rng, digits, frequencies, options.sizes)
        else:
            yield kinds[i], draw_distractor(rng, kinds[i], options.sizes)
