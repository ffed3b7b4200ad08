"""PseCo's assignment and votes against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ssod.methods.hosts.assignment import (
    candidate_labels,
    consistency_votes,
    prediction_guided_assignment,
)


def test_candidates_belong_to_the_best_label_above_the_threshold() -> None:
    labels = torch.tensor([[0.0, 0, 10, 10], [5.0, 0, 15, 10]])
    proposals = torch.tensor(
        [
            [0.0, 0, 10, 4],  # IoU 0.4 with the first
            [0.0, 0, 10, 3.9],  # 0.39
            [4.0, 0, 14, 10],  # 6/14 with the first, 9/11 with the second
            [40.0, 40, 50, 50],
        ]
    )
    assert candidate_labels(proposals, labels, 0.4).tolist() == [0, -1, 1, -1]
    assert candidate_labels(proposals, labels[:0], 0.4).tolist() == [-1] * 4
    assert candidate_labels(proposals[:0], labels, 0.4).shape == (0,)


def test_the_sum_of_ious_says_how_many_are_positive() -> None:
    candidates = torch.tensor([0, 0, 0, 0, 1, 1, -1, 0])
    ious = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.3, 0.4, 0.9, 0.6])
    scores = torch.tensor([0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 1.0, 0.2])
    # First label: 0.9 + 0.8 + 0.7 + 0.1 + 0.6 = 3.1, so 3; qualities^2 .09, .72, .63, .09-, .12.
    # Second label: 0.7, so at least 1; qualities^2 .27, .04.
    found = prediction_guided_assignment(candidates, scores, ious, 2, 12)
    assert found.tolist() == [-1, 0, 0, -1, 1, -1, -1, 0]
    # Only the two highest IoUs count: 1.7, so 1.
    assert prediction_guided_assignment(candidates, scores, ious, 2, 2).tolist() == [
        -1, 0, -1, -1, 1, -1, -1, -1,
    ]  # fmt: skip


def test_assignment_against_loops() -> None:
    generator = torch.Generator().manual_seed(4)
    candidates = torch.randint(-1, 4, (60,), generator=generator)
    scores, ious = torch.rand(2, 60, generator=generator).unbind()
    found = prediction_guided_assignment(candidates, scores, ious, 5, 12)
    for label in range(5):
        bag = (candidates == label).nonzero().flatten().tolist()
        most = sorted((float(ious[i]) for i in bag), reverse=True)[:12]
        count = max(1, math.floor(sum(most)))
        best = sorted(bag, key=lambda i: -float(scores[i] * ious[i]))[:count]
        assert sorted(best) == (found == label).nonzero().flatten().tolist()
    assert (found[candidates == -1] == -1).all() and (found == 4).sum() == 0


def test_assignment_of_nothing() -> None:
    none = torch.full((3,), -1)
    assert (
        prediction_guided_assignment(none, torch.ones(3), torch.ones(3), 0, 12).tolist() == [-1] * 3
    )
    assert (
        prediction_guided_assignment(none, torch.ones(3), torch.ones(3), 2, 12).tolist() == [-1] * 3
    )
    empty = torch.zeros(0)
    assert prediction_guided_assignment(none[:0], empty, empty, 2, 12).shape == (0,)


def test_votes_are_means_of_each_label() -> None:
    votes = consistency_votes(torch.tensor([0.9, 0.2, 0.5, 0.7]), torch.tensor([2, 0, 2, 2]), 3)
    assert votes.tolist() == pytest.approx([0.7, 0.2, 0.7, 0.7])
    assert consistency_votes(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0).shape == (0,)
