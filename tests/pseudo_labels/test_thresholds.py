"""Thresholds per class, by hand."""

from __future__ import annotations

import torch

from ssod.pseudo_labels.thresholds import ScoreHistogram, matched_thresholds


def fitted(classes: list[int], scores: list[float], wanted: list[float]) -> torch.Tensor:
    histogram = ScoreHistogram(len(wanted))
    half = len(scores) // 2
    for part in (slice(0, half), slice(half, None)):  # in two goes, as from two shards
        histogram.add(torch.tensor(classes[part]).long(), torch.tensor(scores[part]))
    return matched_thresholds(histogram.counts, torch.tensor(wanted))


def test_each_class_keeps_as_many_as_wanted() -> None:
    scores = [0.95, 0.85, 0.75, 0.65, 0.35, 0.25]
    classes = [0, 0, 0, 0, 1, 1]
    limits = fitted(classes, scores, [3.0, 1.0])
    kept = torch.tensor(scores) >= limits[torch.tensor(classes)]
    assert kept.tolist() == [True, True, True, False, True, False]
    # The highest threshold that does so, to a bin: everything from 0.65 to 0.75 would.
    assert 0.7499 <= limits[0] <= 0.75 and 0.3499 <= limits[1] <= 0.35


def test_nearest_count_and_ties() -> None:
    # Three predictions in one bin: keeping 0 or 3 is possible, 3 is nearer to 2, and 0 to 1.
    assert fitted([0, 0, 0], [0.5, 0.5, 0.5], [2.0]).item() == 0.5
    assert fitted([0, 0, 0], [0.5, 0.5, 0.5], [1.0]).item() == torch.inf
    assert fitted([0, 0], [0.5, 0.5], [1.0]).item() == torch.inf  # equally near: the surer


def test_too_few_none_wanted_and_no_prediction() -> None:
    limits = fitted([0, 1, 1], [0.4, 0.6, 0.9], [10.0, 0.0, 5.0])
    assert 0.3999 <= limits[0] <= 0.4  # all there are
    assert limits[1] == torch.inf
    assert limits[2] == torch.inf  # nothing to keep


def test_scores_at_the_ends() -> None:
    limits = fitted([0, 0], [1.0, 0.0], [1.0])
    assert 0.999 < limits[0] <= 1.0
    assert fitted([0, 0], [1.0, 0.0], [2.0]).item() == 0.0
