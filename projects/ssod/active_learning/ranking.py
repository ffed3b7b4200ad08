"""From scores and features of images to a ranked list, with the reason for each place.

Each part becomes its rank in the pool, from 0 to 1, because parts have different units and tails.
The quality of an image is the mean of its ranks. A class gets less rare with each listed image that
seems to hold it, so rarity is ranked anew after each. `diversity.py` says what the list covers.

Shapes: n images, m labelled images, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from tqdm import tqdm

from ssod.active_learning.diversity import Cover, comparable
from ssod.active_learning.scores import class_weights, rarity

# The parts of a score, in the order in which reasons are given.
QUALITY = ("uncertainty", "disagreement", "rarity")
PARTS = (*QUALITY, "diversity")
# A part is a reason where the image is among this share of the pool.
_OUTSTANDING = 0.8


@dataclass
class Pool:
    """What is known of n candidates.

    Args:
        parts: "uncertainty", "disagreement" -> (n,) values, the higher the better.
        presence: (n, K), each class's highest score; None where rarity does not count.
        boxes: (K,) of the labelled set.
        features: (n, D); None where diversity does not count. labelled: (m, D) of these images.
    """

    parts: Dict[str, np.ndarray]
    presence: Optional[np.ndarray] = None
    boxes: Optional[np.ndarray] = None
    features: Optional[np.ndarray] = None
    labelled: Optional[np.ndarray] = None


@dataclass
class Ranking:
    """The list, and what it was made of.

    Attributes:
        order: indices, the best first. quality, novelty: (n,), novelty being the distance to the
            nearest labelled image. ranks: (n,) of each part, from 0 to 1. Rarity, and so quality,
            are those before the first place was given.
        gaps: by index in `order`, the distance to the nearest image labelled or listed before.
    """

    order: List[int]
    quality: np.ndarray
    ranks: Dict[str, np.ndarray]
    novelty: Optional[np.ndarray] = None
    gaps: List[float] = field(default_factory=list)


def quantiles(values: np.ndarray) -> np.ndarray:
    """(n,): the share of the values below each one, equal values counting half.

    Example:
        >>> quantiles(np.array([3.0, 1.0, 1.0, 9.0])).tolist()
        [0.625, 0.25, 0.25, 0.875]
    """
    if not len(values):
        return np.zeros(0)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (below + counts / 2)[place] / len(values)


def _rarity_ranks(presence: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    weights = class_weights(torch.from_numpy(boxes))
    return quantiles(rarity(torch.from_numpy(presence), weights).numpy())


def rank(pool: Pool, count: int) -> Ranking:
    """The `count` images to label, or all there are."""
    ranks = {name: quantiles(values) for name, values in pool.parts.items()}
    boxes = pool.boxes
    if pool.presence is not None and boxes is not None:
        ranks["rarity"] = _rarity_ranks(pool.presence, boxes)
    total = len(next(iter(ranks.values()), pool.features if pool.features is not None else ()))
    quality = np.mean(list(ranks.values()), axis=0) if ranks else np.ones(total)
    cover = None if pool.features is None else _cover(pool.features, pool.labelled)
    found = Ranking([], quality, dict(ranks), None if cover is None else cover.near.copy())
    free = np.ones(total, dtype=bool)
    for _ in tqdm(range(min(count, total)), desc="choosing", unit="image", delay=5):
        now = np.where(free, quality, -1.0)
        index = int(now.argmax()) if cover is None else cover.best(now)
        found.order.append(index)
        free[index] = False
        if cover is not None:
            found.gaps.append(float(cover.near[index]))
            cover.add(index)
        if pool.presence is not None and boxes is not None:
            boxes = boxes + pool.presence[index]
            ranks["rarity"] = _rarity_ranks(pool.presence, boxes)
            quality = np.mean(list(ranks.values()), axis=0)
    return found


def _cover(features: np.ndarray, labelled: Optional[np.ndarray]) -> Cover:
    known = features[:0] if labelled is None else labelled
    mean = np.concatenate([features, known]).astype(np.float32).mean(axis=0)
    return Cover(comparable(features, mean), comparable(known, mean))


def outstanding(ranking: Ranking) -> Dict[str, np.ndarray]:
    """Of each part, and of "novelty": (n,) bool, the images among the highest fifth."""
    found = {name: ranks >= _OUTSTANDING for name, ranks in ranking.ranks.items()}
    if ranking.novelty is not None:
        found["novelty"] = quantiles(ranking.novelty) >= _OUTSTANDING
    return found


def reason(parts: Sequence[str], uncertain: Sequence[str], rare: Sequence[str]) -> str:
    """Why an image is in the list, in a few words.

    Args:
        parts: in which the image is outstanding. uncertain: the classes that the model is least
            sure of. rare: the classes that weigh most in the image's rarity.
    """
    words = {
        "uncertainty": f"unsure of {', '.join(uncertain)}" if uncertain else "unsure",
        "disagreement": "teacher and student differ",
        "rarity": f"may show {', '.join(rare)}" if rare else "rare classes",
        "novelty": "unlike what is labelled",
    }
    return "; ".join(words[part] for part in parts) or "good in all parts, and typical of others"
