"""Soft Teacher's formulas against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from ssod.methods.hosts.reliability import box_deviation, jitter_boxes, soft_background_weights


def test_background_weights_of_each_image_average_to_one() -> None:
    scores = torch.tensor([0.9, 0.8, 0.1, 0.5, 0.0])
    images = torch.tensor([0, 2, 0, 0, 2])
    weights = soft_background_weights(scores, images, 4)
    # Image 0: 3 RoIs, scores sum to 1.5; image 2: 2 RoIs, 0.8; images 1 and 3 have none.
    torch.testing.assert_close(weights, torch.tensor([1.8, 2.0, 0.2, 1.0, 0.0]))


def test_background_weights_without_scores_or_rows() -> None:
    zero = soft_background_weights(
        torch.tensor([0.0, 0.0, 1e-44, 0.4]), torch.tensor([0, 0, 1, 2]), 3
    )
    assert zero.tolist() == [1.0] * 4
    assert soft_background_weights(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 2).shape == (
        0,
    )


def test_jitter_moves_corners_by_their_side() -> None:
    boxes = torch.tensor([[10.0, 20, 110, 70]])  # 100 x 50
    draws = torch.tensor([[[1.0, 1, -1, 0]], [[0.0, -0.5, 0.5, 1]]])
    moved = jitter_boxes(boxes, draws, 0.06)
    wanted = torch.tensor([[[16.0, 23, 104, 70]], [[10.0, 18.5, 113, 73]]])
    torch.testing.assert_close(moved, wanted)


def test_deviation_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 50], [0.0, 0, 0.5, 10]])
    refined = boxes.repeat(3, 1, 1)
    refined[:, 0, 0] += torch.tensor([-1.0, 0, 1])  # sample deviation 1, of a width of 100
    refined[:, 0, 3] += torch.tensor([0.0, 3, 3])  # sqrt(3), of a height of 50
    refined[:, 1, 2] += torch.tensor([-2.0, 0, 2])  # 2, of a width that counts as 1
    found = box_deviation(refined, boxes)
    assert found.tolist() == pytest.approx([(0.01 + 3**0.5 / 50) / 4, 2 / 4], rel=1e-5)


def test_deviation_of_nothing() -> None:
    assert box_deviation(torch.zeros(10, 0, 4), torch.zeros(0, 4)).shape == (0,)
