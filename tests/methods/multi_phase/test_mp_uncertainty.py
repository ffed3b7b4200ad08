"""Eq. 2-7 of the multi-phase paper against numbers worked out by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch

from ssod.methods.multi_phase import background_weights, similarity_loss
from ssod.methods.multi_phase.uncertainty import soft_sampling_weights

DEFAULTS = {"a": 0.25, "b": 50.0, "c1": 20.0, "c2": 14.0}


def gompertz(value: float, b: float, c: float) -> float:
    return math.exp(-b * math.exp(-c * value))


def test_one_pair_by_hand() -> None:
    # 10 x 10 beside 10 x 10, overlap 4 x 10: IoU 40 / 160 = 0.25, IoF 0.4; cosine 0.6, so D = 1 -
    # 0.6 * 0.6 = 0.64.
    weight = background_weights(
        torch.tensor([[0.0, 0, 10, 10]]),
        torch.tensor([[3.0, 4.0]]),
        torch.tensor([[6.0, 0, 16, 10]]),
        torch.tensor([[2.0, 0.0]]),
        **DEFAULTS,
    )
    # exp(-50 exp(-5)) = 0.71398, exp(-50 exp(-8.96)) = 0.99361
    assert math.isclose(gompertz(0.25, 50, 20), 0.71398, abs_tol=1e-5)
    assert math.isclose(float(weight), (0.25 + 0.75 * 0.71398) * 0.99361, abs_tol=1e-4)


def test_what_the_weights_mean() -> None:
    positive, feature = torch.tensor([[20.0, 20, 40, 40]]), torch.tensor([[1.0, 0.0]])
    boxes = torch.tensor(
        [
            [60.0, 60, 80, 80],  # far away, looks like the object: a missing label
            [60.0, 60, 80, 80],  # far away, looks different: its IoU alone is uncertain
            [22.0, 22, 30, 30],  # inside the object and alike: background for sure, but IoU 0.16
            [30.0, 20, 50, 40],  # IoU 1/3 and unlike
        ]
    )
    features = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    missing, far, inside, near = background_weights(
        boxes, features, positive, feature, **DEFAULTS
    ).tolist()
    assert missing < 1e-6  # the absolute value: an opposite feature is as similar as an equal one
    assert far == pytest.approx(0.25, abs=1e-3)
    assert inside == pytest.approx(0.25 + 0.75 * gompertz(0.16, 50, 20), abs=1e-3)
    assert near > 0.9


def test_against_loops_and_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 9, 2, generator=generator, dtype=torch.float64) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, 9, 2, generator=generator) * 30], dim=-1)
    features = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0]]).bool()
    batched = background_weights(boxes, features, boxes, features, positive_mask=mask, **DEFAULTS)
    own = mask[0]
    alone = background_weights(boxes[0], features[0], boxes[0][own], features[0][own], **DEFAULTS)
    torch.testing.assert_close(batched[0], alone)
    assert batched[1].tolist() == [1.0] * 9  # no positive in this image
    for i in range(9):
        iou, likeness = 0.0, 0.0
        for j in own.nonzero().flatten().tolist():
            a, b = boxes[0, i].tolist(), boxes[0, j].tolist()
            shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(
                0, min(a[3], b[3]) - max(a[1], b[1])
            )
            area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
            iou = max(iou, shared / (area[0] + area[1] - shared))
            f, g = features[0, i], features[0, j]
            cosine = abs(float(f @ g)) / float(f.norm() * g.norm())
            likeness = max(likeness, cosine * (1 - shared / area[0]))
        wanted = (0.25 + 0.75 * gompertz(iou, 50, 20)) * gompertz(1 - likeness, 50, 14)
        assert float(alone[i]) == pytest.approx(wanted, rel=1e-9)


def test_degenerate_inputs() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 9], [0.0, 0, 9, 9]])
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    weights = background_weights(boxes, features, boxes, features, **DEFAULTS)
    assert torch.isfinite(weights).all() and not weights.requires_grad
    assert weights[0] == pytest.approx(0.25, abs=1e-3)  # overlaps nothing, resembles nothing
    empty = torch.zeros(0, 4)
    assert background_weights(empty, torch.zeros(0, 2), boxes, features, **DEFAULTS).shape == (0,)
    alone = background_weights(boxes, features, empty, torch.zeros(0, 2), **DEFAULTS)
    assert alone.tolist() == [1.0, 1.0]


def test_soft_sampling_is_the_first_factor() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    other = torch.tensor([[6.0, 0, 16, 10], [0.0, 20, 10, 30]])
    weight = soft_sampling_weights(boxes, other, 0.25, 50.0, 20.0)
    assert float(weight) == pytest.approx(0.25 + 0.75 * 0.71398, abs=1e-4)
    unlike = background_weights(
        boxes, torch.tensor([[1.0, 0.0]]), other, torch.tensor([[0.0, 1.0]] * 2), **DEFAULTS
    )
    assert float(unlike) == pytest.approx(float(weight), rel=1e-4)  # exp(-50 exp(-14)) = 0.99996


def test_similarity_loss_by_hand() -> None:
    boxes_a = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 20, 20]])
    boxes_b = torch.tensor([[0.0, 0, 10, 8]])  # IoF: 0.8 of the first; all of it is in both
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    b = torch.tensor([[1.0, 0.0]])
    # d = 1 and 0.6, y = 1 and 1: (0 + 0.16) / 2
    assert float(similarity_loss(a, b, boxes_a, boxes_b)) == pytest.approx(0.08, abs=1e-6)
    apart = torch.tensor(
        [[0.0, 5, 10, 15], [0.0, 0, 20, 20]]
    )  # IoF 0.3 and 0.375: y = 0 for the first
    assert float(similarity_loss(a, b, apart, boxes_b)) == pytest.approx((1 + 0.16) / 2, abs=1e-6)
    masked = similarity_loss(a, b, apart, boxes_b, pair_mask=torch.tensor([[False], [True]]))
    assert float(masked) == pytest.approx(0.16, abs=1e-6)


def test_threshold_of_similarity_is_strict() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    half = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 5, 10, 15]])
    assert float(similarity_loss(a, b, *half, iof_threshold=0.5)) == 1.0  # IoF 0.5 is not above
    assert float(similarity_loss(a, b, *half, iof_threshold=0.49)) == 0.0


def test_similarity_loss_without_pairs_and_with_zero_features() -> None:
    a = torch.zeros(3, 2, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 1, 1]] * 3)
    empty = similarity_loss(a, a[:0], boxes, boxes[:0])
    empty.backward()
    assert empty.item() == 0.0 and a.grad is not None and not a.grad.any()
    loss = similarity_loss(a, a, boxes, boxes)
    loss.backward()
    assert loss.item() == 1.0 and torch.isfinite(a.grad).all()
