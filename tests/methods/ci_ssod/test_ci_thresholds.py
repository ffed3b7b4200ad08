"""Class thresholds and repeat factors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssod.methods.ci_ssod import class_thresholds, image_repeat_factors
from ssod.methods.ci_ssod.repeat_factors import class_sampling_rates
from ssod.methods.ci_ssod.sampling import labeled_repeat_factors
from ssod.methods.ci_ssod.thresholds import matching_thresholds


def test_gradient_term() -> None:
    weights = torch.tensor([0.5, 1.0, 1.2, 1.5, 3.0])
    found = class_thresholds(weights, 0.9)
    assert found.tolist() == pytest.approx([0.9, 0.9, 0.75, 0.6, 0.5])  # the last: 0.3, clamped


def test_score_term() -> None:
    means = torch.tensor([0.8, 0.4, math.nan, 0.6])  # mean of those seen: 0.6
    found = class_thresholds(torch.ones(4), 0.9, means)
    assert found.tolist() == pytest.approx([0.9, 0.6, 0.9, 0.9])
    both = class_thresholds(torch.tensor([1.0, 1.2, 1.5, 1.25]), 0.9, means, low=0.55)
    assert both.tolist() == pytest.approx([0.9, 0.6, 0.6, 0.72])


def test_no_class_seen_yet() -> None:
    found = class_thresholds(torch.tensor([1.0, 1.5]), 0.9, torch.full((2,), math.nan))
    assert found.tolist() == pytest.approx([0.9, 0.6])


def test_clamp_above() -> None:
    assert class_thresholds(torch.ones(1), 0.95, high=0.9).tolist() == pytest.approx([0.9])


def test_matching_thresholds() -> None:
    histogram = torch.tensor([[2.0, 1.0, 0.5, 0.5], [0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    found = matching_thresholds(histogram, torch.tensor([1.0, 1.0, 1.0]))
    # Class 0: the bins from 0.5 up hold one per image. Class 1: all detections are too few. Class
    # 2: too many at the top.
    assert found.tolist() == [0.5, 0.0, 1.0]


def test_class_sampling_rates() -> None:
    counts = torch.tensor([100.0, 4.0, 0.0, 25.0])
    found = class_sampling_rates(counts, 200, 0.25)
    assert found.tolist() == pytest.approx([1.0, math.sqrt(12.5), 1.0, math.sqrt(2.0)])
    assert class_sampling_rates(counts, 200, 0.0).tolist() == [1.0] * 4


def test_image_repeat_factors() -> None:
    pseudo = [
        (torch.tensor([1, 0]), torch.tensor([0.9, 1.0])),
        (torch.tensor([], dtype=torch.int64), torch.tensor([])),
        (torch.tensor([1, 1, 0]), torch.tensor([0.95, 0.6, 0.3])),
        (torch.tensor([2]), torch.tensor([0.2])),
    ]
    thresholds = torch.tensor([0.9, 0.5, 0.5])
    # S_1 = sqrt(0.5 * 200 / 4) = 5, S_0 = 1 (100 images), S_2 = 1 (no image).
    found = image_repeat_factors(pseudo, torch.tensor([100, 4, 0]), 200, thresholds, 0.5)
    assert found.tolist() == pytest.approx([2.0, 1.0, 2.25, 1.0])


def test_no_images() -> None:
    assert len(image_repeat_factors([], torch.zeros(3), 10, torch.full((3,), 0.9), 0.5)) == 0


def test_labeled_repeat_factors() -> None:
    images = [[0], [0], [0, 1], [0], []]
    records = [{"annotations": [{"category_id": c} for c in image]} for image in images]
    found = labeled_repeat_factors(records, 0.8)
    # Class 0 is in 4 of 5 images, class 1 in one: sqrt(0.8 / 0.2) = 2.
    assert np.allclose(found, [1, 1, 2, 1, 1])
