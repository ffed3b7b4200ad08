"""The list: ranks, k-center greedy and reasons, on images that can be imagined."""

from __future__ import annotations

import numpy as np
import pytest

from ssod.active_learning.diversity import comparable, distances, k_center_greedy, nearest
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


def test_k_center_greedy_takes_the_farthest_first() -> None:
    features, labelled = directions(10, 175, 90, 170), directions(0)
    taken, gaps = k_center_greedy(features, np.ones(4), labelled, 3)
    # 175 is farthest from the labelled image at 0; then 90; then 10, nearer to 0 than 170 to 175 is
    # not.
    assert taken == [1, 2, 0]
    expected = [(1 - np.cos(np.radians(a))) / 2 for a in (175, 85, 10)]
    assert gaps == pytest.approx(expected, abs=1e-6)


def test_quality_weighs_distance_and_breaks_ties() -> None:
    features = directions(180, 90)
    assert k_center_greedy(features, np.array([0.4, 1.0]), directions(0), 1)[0] == [1]  # 0.4 < 0.5
    assert k_center_greedy(features, np.array([0.6, 1.0]), directions(0), 1)[0] == [0]
    same = directions(0, 0, 0)
    assert k_center_greedy(same, np.array([0.1, 0.9, 0.5]), directions(0), 5)[0] == [1, 2, 0]


def test_near_duplicates_do_not_fill_the_list() -> None:
    """Twenty copies of the image of highest quality, and three others."""
    features = np.concatenate([np.repeat(directions(90), 20, axis=0), directions(180, 200, 270)])
    parts = {"uncertainty": np.array([9.0] * 20 + [1.0, 2.0, 3.0])}
    order = rank(Pool(parts, features, directions(0)), 4).order
    assert len([index for index in order if index < 20]) == 1
    # With quality alone they do.
    assert all(index < 20 for index in rank(Pool(parts), 4).order)


def test_quality_is_the_mean_of_ranks() -> None:
    parts = {"uncertainty": np.array([1.0, 2.0, 3.0]), "rarity": np.array([0.0, 0.5, 0.1])}
    ranking = rank(Pool(parts), 10)
    assert ranking.quality.tolist() == pytest.approx([1 / 6, (3 / 6 + 5 / 6) / 2, (5 + 3) / 12])
    assert ranking.order == [1, 2, 0] and ranking.novelty is None and not ranking.gaps


def test_diversity_alone_needs_no_scores() -> None:
    assert rank(Pool({}, directions(0, 1, 180)), 2).order in ([0, 2], [2, 0], [2, 1], [1, 2])


def test_reasons() -> None:
    parts = {"uncertainty": np.arange(10.0), "rarity": np.zeros(10)}
    high = outstanding(rank(Pool(parts), 10))
    assert np.flatnonzero(high["uncertainty"]).tolist() == [8, 9]
    assert not high["rarity"].any()  # equal values are no reason
    assert reason(["uncertainty", "novelty"], ["ace"], []) == (
        "unsure of ace; unlike what is labelled"
    )
    assert "good" in reason([], ["ace"], ["king"])
