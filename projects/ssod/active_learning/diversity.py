"""A list of images that are good and unlike each other.

Shapes: n candidates, m labelled images, D features.

k-center greedy (Sener and Savarese, ICLR 2018) takes again and again the candidate that is farthest
from everything that is labelled or taken. Here its distance is multiplied by the candidate's
quality, so that neither near-duplicates nor dull outliers fill the list. Time grows with n times
the length of the list, memory with n.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from tqdm import tqdm

_BLOCK = 64  # centres at a time


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


def k_center_greedy(
    features: np.ndarray, quality: np.ndarray, labelled: np.ndarray, count: int
) -> Tuple[List[int], List[float]]:
    """Takes `count` candidates, or all there are.

    Args:
        features: (n, D) of length 1. quality: (n,), not negative. labelled: (m, D), of length 1.

    Returns:
        Indices in the order in which they were taken, and the distance of each to the nearest image
        that was labelled or taken before. Of equal candidates the one of higher quality comes
        first, then the one of the lower index.
    """
    left = nearest(features, labelled)
    free = np.ones(len(features), dtype=bool)
    taken: List[int] = []
    gaps: List[float] = []
    for _ in tqdm(range(min(count, len(features))), desc="choosing", unit="image", delay=5):
        gain = np.where(free, left * quality, -1.0)
        best = np.flatnonzero(gain == gain.max())
        index = int(best[np.argmax(quality[best])])
        taken.append(index)
        gaps.append(float(left[index]))
        free[index] = False
        np.minimum(left, distances(features, features[index]), out=left)
    return taken, gaps
