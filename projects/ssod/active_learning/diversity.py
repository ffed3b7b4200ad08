"""A list of images that are good, unlike each other, and typical of many.

Shapes: n candidates, m labelled images, D features, r images that stand for the pool.

The list covers the pool (facility location; Wei, Iyer and Bilmes, ICML 2015). An image of the pool
is as well covered as its nearest labelled or listed image is near. Each candidate's gain is by how
much it brings the pool nearer, times its quality. So a near-duplicate gains nothing, and an outlier
covers nobody but itself. k-center greedy, which takes the farthest candidate, fills a list with
outliers.

A gain can only fall while the list grows, so most candidates need not be looked at again (lazy
greedy; Minoux, 1978). Time grows with n times r, memory with n plus m times r.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 64  # images at a time
_POOL = 4096  # images that stand for a large pool, spread evenly over it


def comparable(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Features (n, D) minus a mean (D,), of length 1 each, float32.

    Without the mean, which all images of a set share, every cosine is near 1.
    """
    moved = features.astype(np.float32) - mean.astype(np.float32)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return moved / np.maximum(length, 1e-12)


def distances(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n,): from 0 for equal directions to 1 for opposite ones, (1 - cosine) / 2.

    Args:
        features: (n, D), centre: (D,), of length 1; or (D, m) for all pairs, (n, m).
    """
    return np.clip((1.0 - features @ centre) / 2.0, 0.0, 1.0)


def nearest(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n,): the distance to the nearest of the centres (m, D); 1 where there is none."""
    found = np.ones(len(features), dtype=np.float32)
    for start in range(0, len(centres), _BLOCK):
        block = centres[start : start + _BLOCK]
        np.minimum(found, distances(features, block.T).min(axis=1), out=found)
    return found


class Cover:
    """How well the labelled and listed images cover the pool; grows by `add`.

    Args:
        features: (n, D) of length 1. labelled: (m, D), of length 1.
    """

    def __init__(self, features: np.ndarray, labelled: np.ndarray) -> None:
        total = len(features)
        self.features = features
        self._pool = features[np.linspace(0, total - 1, min(total, _POOL), dtype=np.int64)]
        self._left = nearest(self._pool, labelled)
        self.near = nearest(features, labelled)  # (n,): to the nearest labelled or listed image
        blocks = [self._gains(features[at : at + _BLOCK]) for at in range(0, total, _BLOCK)]
        self._gain = np.concatenate(blocks) if blocks else np.zeros(0)

    def best(self, quality: np.ndarray) -> int:
        """The candidate whose gain times its quality (n,) is highest, of equals the first of the
        highest quality. Negative qualities are never taken while there is another.
        """
        while True:
            value = np.where(quality < 0, -1.0, self._gain * quality)
            ties = np.flatnonzero(value == value.max())
            index = int(ties[np.argmax(quality[ties])])
            now = self._gains(self.features[index : index + 1])[0]
            if now == self._gain[index]:
                return index
            self._gain[index] = now  # it has fallen since it was computed

    def add(self, index: int) -> None:
        """The candidate is listed."""
        centre = self.features[index]
        np.minimum(self._left, distances(self._pool, centre), out=self._left)
        np.minimum(self.near, distances(self.features, centre), out=self.near)

    def _gains(self, block: np.ndarray) -> np.ndarray:
        # Image by image: a product of matrices may round otherwise in another block.
        rows = [np.maximum(self._left - distances(self._pool, row), 0).sum() for row in block]
        return np.array(rows, dtype=np.float64)
