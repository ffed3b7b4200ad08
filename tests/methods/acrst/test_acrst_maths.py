"""Pseudo recall, class probabilities and exact visibility: by hand and by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.methods.acrst import class_sampling_probabilities, pseudo_recall, visible_fraction


def test_pseudo_recall_by_hand() -> None:
    # 19 unlabelled images a labelled one: 19 * 10 = 190 boxes of class 0 are expected, 95 found.
    found = pseudo_recall(torch.tensor([95, 0, 7, 38]), torch.tensor([10, 4, 0, 1]), 19.0)
    assert found.dtype == torch.float64
    assert found[:2].tolist() == [0.5, 0.0] and math.isnan(found[2]) and found[3] == 2.0
    assert pseudo_recall(torch.zeros(0), torch.zeros(0), 1.0).shape == (0,)
    with pytest.raises(ValueError):
        pseudo_recall(torch.ones(1), torch.ones(1), 0.0)


def test_probabilities_by_hand() -> None:
    # Ranks: class 1 (0.8), 3 (0.4), 0 (0.2). Weights come from the other end: 0.2, 0.4, 0.8,
    # squared.
    recall = torch.tensor([0.2, 0.8, torch.nan, 0.4])
    found = class_sampling_probabilities(recall, 2.0)
    expected = torch.tensor([0.64, 0.04, 0.0, 0.16], dtype=torch.float64) / 0.84
    assert torch.allclose(found, expected, atol=1e-7)
    # Without class 1 the two others change places.
    there = torch.tensor([True, False, True, True])
    found = class_sampling_probabilities(recall, 1.0, there)
    assert torch.allclose(found, torch.tensor([2, 0, 0, 1], dtype=torch.float64) / 3, atol=1e-7)


def test_probabilities_of_neglected_classes() -> None:
    # Classes never found are floored at a thousandth of the maximum; of the two the later one ranks
    # last.
    found = class_sampling_probabilities(torch.tensor([0.0, 1.0, 0.0]), 1.0)
    assert torch.allclose(found, torch.tensor([1e-3, 1e-3, 1.0]).double() / 1.002)
    assert class_sampling_probabilities(torch.zeros(4), 2.0).tolist() == [0.25] * 4
    assert class_sampling_probabilities(torch.tensor([0.0, torch.nan, 0.0]), 2.0).tolist() == [
        0.5,
        0.0,
        0.5,
    ]


@pytest.mark.parametrize("recall, there", [([torch.nan] * 2, None), ([0.1, 0.2], [False] * 2)])
def test_nothing_to_draw(recall: list, there: list) -> None:
    available = None if there is None else torch.tensor(there)
    assert class_sampling_probabilities(torch.tensor(recall), 2.0, available).tolist() == [0, 0]
    assert class_sampling_probabilities(torch.zeros(0), 2.0).shape == (0,)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_probabilities_are_the_mirrored_recalls(beta: float) -> None:
    recall = torch.rand(9).double() + 0.01
    found = class_sampling_probabilities(recall, beta)
    assert found.sum().item() == pytest.approx(1.0)
    falling = sorted(recall.tolist(), reverse=True)
    total = sum(falling)
    plain = [(falling[9 - 1 - falling.index(v)] / total) ** beta for v in recall.tolist()]
    assert found.tolist() == pytest.approx([v / sum(plain) for v in plain])


def rasterised(box: Tensor, occluders: Tensor) -> float:
    """Share of the box's unit pixels that no occluder covers; whole-number boxes only."""
    canvas = np.zeros((40, 40), dtype=bool)
    for x0, y0, x1, y1 in occluders.int().tolist():
        canvas[y0:y1, x0:x1] = True
    x0, y0, x1, y1 = box.int().tolist()
    part = canvas[y0:y1, x0:x1]
    return float((~part).mean()) if part.size else 0.0


@pytest.mark.parametrize("seed, count", itertools.product(range(12), [0, 1, 3, 12]))
def test_visibility_equals_rasterised_masks(seed: int, count: int) -> None:
    rng = np.random.default_rng([seed, count])

    def draw(number: int) -> Tensor:
        corners = np.sort(rng.integers(0, 30, (number, 2, 2)), axis=1).reshape(number, 4)
        return torch.tensor(corners, dtype=torch.float32)

    boxes, above = draw(20), draw(count)
    expected = [rasterised(box, above) for box in boxes]
    found = visible_fraction(boxes, above)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    # Boxes that are entirely hidden or entirely free have exactly 0 or 1.
    assert all((f == 0) == (e == 0) and (f == 1) == (e == 1) for f, e in zip(found, expected))


def test_visibility_is_of_the_union() -> None:
    box = torch.tensor([[0.1, 0.2, 10.3, 10.7]])
    halves = torch.tensor([[-5.0, 0, 4.9, 20], [4.9, -1, 11, 11]])
    assert visible_fraction(box, halves).tolist() == [0.0]
    # Pairwise, each covers less than all; counted twice, the overlap would make it negative.
    twice = torch.tensor([[0.1, 0.2, 5.2, 10.7], [0.1, 0.2, 5.2, 10.7]])
    assert visible_fraction(box, twice).item() == pytest.approx(0.5)
    gap = torch.tensor([[0.0, 0, 5.0, 20], [5.001, 0, 20, 20]])
    assert 0 < visible_fraction(box, gap).item() < 1e-3


def test_visibility_edge_cases() -> None:
    box = torch.tensor([[0, 0, 4, 4]])
    assert visible_fraction(box, box[:0]).tolist() == [1.0]
    assert visible_fraction(box[:0], box).shape == (0,)
    assert visible_fraction(box[:0], box[:0]).shape == (0,)
    degenerate = torch.tensor([[1, 1, 1, 3], [2, 2, 3, 2], [2, 2, 2, 2]])
    assert visible_fraction(degenerate, box[:0]).tolist() == [0.0, 0.0, 0.0]
    assert visible_fraction(box, degenerate).tolist() == [1.0]
    assert visible_fraction(box.double() / 3, box.double()).dtype == torch.float64
