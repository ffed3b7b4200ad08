"""The two-stage filter against hand-made cases and a loop over the rows."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Instances

from detections import detections
from ssod.errors import UserError
from ssod.methods.acrst import two_stage_filter


def predictions(scores: list[float], classes: list[int]) -> Instances:
    boxes = torch.arange(4.0 * len(scores))
    return detections(scores, classes, boxes, (10, 10))


@pytest.mark.parametrize("mode, kept", [("filter", [0, 3]), ("mine", [0, 1, 2, 3])])
def test_hand_made(mode: str, kept: list[int]) -> None:
    # Class 0 is active exactly at the threshold, class 1 is not. Rows: both stages pass; the
    # image-level one alone; the score alone; both, exactly at the threshold; neither; active but
    # below mining's floor.
    found = predictions([0.9, 0.3, 0.8, 0.7, 0.6, 0.04], [0, 0, 1, 0, 1, 0])
    result = two_stage_filter(found, torch.tensor([0.2, 0.19]), 0.7, 0.2, mode)
    assert torch.equal(result.scores, found.scores[kept])
    assert torch.equal(result.pred_classes, found.pred_classes[kept])
    assert torch.equal(result.pred_boxes.tensor, found.pred_boxes.tensor[kept])
    assert len(found) == 6  # what was given stays


@pytest.mark.parametrize("mode", ["filter", "mine"])
def test_brute_force(mode: str) -> None:
    torch.manual_seed(1)
    scores, classes, active = torch.rand(500), torch.randint(0, 7, (500,)), torch.rand(7)
    found = predictions(scores.tolist(), classes.tolist())
    expected = []
    for index in range(500):
        first, second = float(scores[index]) >= 0.4, float(active[classes[index]]) >= 0.3
        if mode == "filter":
            passes = first and second
        else:
            passes = float(scores[index]) >= 0.05 and (first or second)
        if passes:
            expected.append(index)
    result = two_stage_filter(found, active, 0.4, 0.3, mode)
    assert 0 < len(expected) < 500
    assert torch.equal(result.scores, found.scores[expected])


@pytest.mark.parametrize("mode", ["filter", "mine"])
def test_no_predictions(mode: str) -> None:
    result = two_stage_filter(predictions([], []), torch.tensor([0.9]), 0.7, 0.2, mode)
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)


def test_further_fields_stay() -> None:
    found = predictions([0.9, 0.1], [0, 0])
    found.level = torch.tensor([5, 6])
    assert two_stage_filter(found, torch.ones(1), 0.7, 0.2).level.tolist() == [5]


def test_unknown_mode() -> None:
    with pytest.raises(UserError, match="SSOD.TWO_STAGE_FILTER.MODE is 'mining'"):
        two_stage_filter(predictions([0.9], [0]), torch.ones(1), 0.7, 0.2, "mining")
