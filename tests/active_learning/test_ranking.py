"""The list: ranks, cover and reasons, on images that can be imagined."""

from __future__ import annotations

import numpy as np
import pytest

from ssod.active_learning.diversity import Cover, comparable, distances, nearest
from ssod.active_learning.ranking import Pool, outstanding, quantiles, rank, reason


def directions(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_quantiles_count_equal_values_half() -> None:
    assert quantiles(np.array([3.0, 1.0, 1.0, 9.0])).tolist() == [0.625, 0.25, 0.25, 0.875]
    assert quantiles(np.array([7.0])).tolist() == [0.5]
    assert len(quantiles(np.zeros(0))) == 0


def test_distances() -> None:
    found = distances(directions(0, 90, 180), directions(0)[0])
    assert found.tolist() == pytest.approx([0, 0.5, 1], abs=1e-6)
    assert nearest(directions(0, 90), directions(180, 90)).tolist() == pytest.approx([0.5, 0])
    assert nearest(directions(0, 90), directions()).tolist() == [1, 1]
    many = directions(*[180] * 100, 90)  # more than one block
    assert nearest(directions(0, 90), many).tolist() == pytest.approx([0.5, 0])


def test_features_lose_what_all_images_share() -> None:
    features = np.array([[10.0, 11], [10, 9]])
    assert comparable(features, np.array([10.0, 10])).tolist() == [[0, 1], [0, -1]]
    assert not np.isnan(comparable(features[:1], features[0])).any()  # no direction at all


def choose(features: np.ndarray, quality: np.ndarray, labelled: np.ndarray, count: int) -> list:
    cover, taken = Cover(features, labelled), []
    for _ in range(count):
        taken.append(cover.best(np.where(np.isin(np.arange(len(quality)), taken), -1, quality)))
        cover.add(taken[-1])
    return taken


def test_the_first_brings_the_pool_nearest() -> None:
    """Of a group the image in its middle comes first."""
    features, labelled = directions(80, 90, 100), directions(0, 180)
    assert choose(features, np.ones(3), labelled, 1) == [1]
    cover = Cover(features, labelled)
    expected = (1 - np.cos(np.radians([80, 90, 80]))) / 2
    assert cover.near.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    cover.add(1)
    expected = (1 - np.cos(np.radians([10, 0, 10]))) / 2
    assert cover.near.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_an_outlier_covers_only_itself() -> None:
    """The farthest image, which k-center greedy would take first, comes after the groups."""
    features = directions(55, 60, 65, 115, 120, 125, 180)
    first, second, third = choose(features, np.ones(7), directions(0), 3)
    assert first in (3, 4, 5) and second in (0, 1, 2) and third == 6


def test_lazy_gains_equal_those_computed_anew() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(300, 8))
    features = comparable(raw, raw.mean(axis=0))
    quality, labelled = rng.random(300), features[:5]
    cover, left = Cover(features, labelled), nearest(features, labelled)
    for _ in range(20):
        gains = np.array([np.maximum(left - distances(features, f), 0).sum() for f in features])
        index = cover.best(quality)
        assert index == (gains * quality).argmax()
        cover.add(index)
        left = np.minimum(left, distances(features, features[index]))


def test_quality_weighs_the_gain_and_breaks_ties() -> None:
    features, labelled = directions(90, 270), directions(0)  # neither covers the other
    assert choose(features, np.array([0.4, 0.5]), labelled, 1) == [1]
    group = directions(90, 90, 270)  # two images gain twice as much as one
    assert choose(group, np.array([0.4, 0.4, 0.7]), labelled, 1) == [0]
    assert choose(group, np.array([0.4, 0.4, 0.9]), labelled, 1) == [2]
    same = directions(0, 0, 0)
    assert choose(same, np.array([0.1, 0.9, 0.5]), directions(0), 3) == [1, 2, 0]


def test_a_class_gets_less_rare_with_each_listed_image() -> None:
    """Classes 0 and 1 have no label. Once an image of class 0 is listed, one of class 1 follows."""
    presence = np.array([[1.0, 0.0], [0.9, 0.0], [0.0, 0.5], [0.0, 0.0]])
    ranking = rank(Pool({}, presence, np.array([0.0, 0.0])), 4)
    assert ranking.order[:2] == [0, 2]
    assert ranking.ranks["rarity"].tolist() == ranking.quality.tolist()


def test_near_duplicates_do_not_fill_the_list() -> None:
    """Twenty copies of the image of highest quality, and three others."""
    features = np.concatenate([np.repeat(directions(90), 20, axis=0), directions(180, 200, 270)])
    parts = {"uncertainty": np.array([9.0] * 20 + [1.0, 2.0, 3.0])}
    order = rank(Pool(parts, features=features, labelled=directions(0)), 4).order
    assert len([index for index in order if index < 20]) == 1
    # With quality alone they do.
    assert all(index < 20 for index in rank(Pool(parts), 4).order)


def test_quality_is_the_mean_of_ranks() -> None:
    parts = {"uncertainty": np.array([1.0, 2.0, 3.0]), "disagreement": np.array([0.0, 0.5, 0.1])}
    ranking = rank(Pool(parts), 10)
    assert ranking.quality.tolist() == pytest.approx([1 / 6, (3 / 6 + 5 / 6) / 2, (5 + 3) / 12])
    assert ranking.order == [1, 2, 0] and ranking.novelty is None and not ranking.gaps


def test_diversity_alone_needs_no_scores() -> None:
    assert rank(Pool({}, features=directions(0, 1, 180)), 2).order in (
        [0, 2],
        [2, 0],
        [2, 1],
        [1, 2],
    )


def test_reasons() -> None:
    parts = {"uncertainty": np.arange(10.0), "disagreement": np.zeros(10)}
    high = outstanding(rank(Pool(parts), 10))
    assert np.flatnonzero(high["uncertainty"]).tolist() == [8, 9]
    assert not high["disagreement"].any()  # equal values are no reason
    assert reason(["uncertainty", "novelty"], ["ace"], []) == (
        "unsure of ace; unlike what is labelled"
    )
    assert "good" in reason([], ["ace"], ["king"])
