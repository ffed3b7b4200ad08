"""DASO's formulas by hand, and DASO in the step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import InertPeriod, build_methods
from ssod.methods.daso import (
    DASO,
    blend_distributions,
    blending_shares,
    semantic_alignment_loss,
    semantic_distribution,
)
from steps import batch, cfg_with, core_of
from tiny import make_sample, tiny_cfg

KNOWN = torch.tensor([True, True, False])
PROTOTYPES = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])


def build(*keys: Any) -> TeacherStudent:
    own = ["SSOD.DASO.WARMUP_STEPS", 0, "SSOD.DASO.SCORE_THRESHOLD", 0.1]
    own += ["SSOD.DASO.RPN_SCORE_THRESHOLD", 0.2, "SSOD.BURN_IN_STEPS", 0]
    return core_of(cfg_with(("DASO",), *own, *keys))


def test_semantic_distribution_by_hand() -> None:
    # Cosines 0.6 and 0.8, temperature 0.2: logits 3 and 4; the third class has no prototype.
    (found,) = semantic_distribution(torch.tensor([[3.0, 4.0]]), PROTOTYPES, KNOWN, 0.2).tolist()
    first = 1 / (1 + math.e)
    assert found == pytest.approx([first, 1 - first, 0.0], abs=1e-6)


def test_shares_by_hand() -> None:
    assert blending_shares(torch.tensor([8.0, 2.0, 0.0]), 0.5).tolist() == [1.0, 1 / 16, 0.0]
    assert blending_shares(torch.tensor([9.0, 1.0]), 2.0).tolist() == pytest.approx([1.0, 1 / 3])
    assert blending_shares(torch.zeros(3), 1.5).tolist() == [0.0] * 3


def test_blend_by_hand() -> None:
    probabilities = torch.tensor([[0.6, 0.2, 0.0], [0.1, 0.8, 0.1]])
    semantic = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.5, 0.0]])
    found = blend_distributions(probabilities, semantic, torch.tensor([0.5, 0.25, 1.0]))
    # 20 % of the first box are background's, and stay.
    assert found[0].tolist() == pytest.approx([0.3 + 0.4 * 0.1, 0.1 + 0.4 * 0.9, 0.0])
    assert found[1].tolist() == pytest.approx([0.2, 0.725, 0.075])
    assert blend_distributions(torch.zeros(0, 3), torch.zeros(0, 3), torch.ones(3)).shape == (0, 3)


def test_alignment_loss_by_hand() -> None:
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[0.25, 0.75, 0.0]])
    loss = semantic_alignment_loss(features, target, PROTOTYPES, KNOWN, 0.2)
    first = 1 / (1 + math.e)
    assert loss.item() == pytest.approx(-0.25 * math.log(first) - 0.75 * math.log(1 - first))
    loss.backward()
    assert features.grad is not None and features.grad.any()
    none = torch.zeros(0, 2, requires_grad=True)
    semantic_alignment_loss(none, torch.zeros(0, 3), PROTOTYPES, KNOWN, 0.2).backward()
    assert none.grad is not None


def test_queues_keep_the_newest_of_each_class() -> None:
    method = build("SSOD.DASO.QUEUE_SIZE", 2).methods["DASO"]
    assert isinstance(method, DASO)
    size = method.queue.shape[2]
    values = torch.arange(1.0, 6.0).half()[:, None].expand(5, size)
    method.enqueue(values[:1], torch.tensor([0]))
    prototypes, known = method.prototypes()
    assert known.tolist() == [True, False, False] and prototypes[0, 0] == 1.0
    method.enqueue(values[1:], torch.tensor([0, 2, 0, 0]))  # 2, 4 and 5 are class 0's
    prototypes, known = method.prototypes()
    assert prototypes[0, 0] == 4.5 and prototypes[2, 0] == 3.0 and not known[1]
    assert method.filled.tolist() == [4, 0, 1]


def test_step_blends_counts_and_aligns(storage: Any) -> None:
    core = build()
    method = core.methods["DASO"]
    losses = core(batch())  # nothing is known yet: the teacher's own distributions
    assert losses["loss_daso_alignment"].item() == 0.0
    boxes = [make_sample(i, True).instances for i in range(2)]
    assert method.filled.sum() == sum(len(row) for row in boxes if row is not None)
    assert method.counts.sum() > 0
    assert core.last_numbers["activity/DASO"] == 0  # there were no prototypes to blend with
    for row in core.last_pseudo.instances:
        assert row.daso_target.shape == (len(row), 3) and not row.daso_target.any()
    losses = core(batch())
    assert losses["loss_daso_alignment"].item() > 0
    assert core.last_numbers["activity/DASO"] > 0
    sum(losses.values()).backward()
    for row in core.last_pseudo.instances:
        assert torch.allclose(row.daso_target.sum(1), torch.ones(len(row)))
        assert not row.selected.any() or row.scores[row.selected].min() >= 0.1
    core.methods["DASO"].first_step = 9
    assert "loss_daso_alignment" not in core(batch())
    period = InertPeriod(steps=2, last_step=8, best_score=0.5, candidates=3.0, selected=1.0)
    assert "stay until step 9; lower its WARMUP_STEPS" in method.inert_reason(period)


def test_labels_that_agree_after_relabelling_are_one_label(storage: Any) -> None:
    core = build()
    method = core.methods["DASO"]
    method.redistribute = lambda found, context: torch.tensor([0.1, 0.7, 0.2]).expand(
        len(found.probabilities), 3
    )
    core(batch())
    for row in core.last_pseudo.instances:
        assert (row.gt_classes == 1).all() and torch.allclose(row.scores, torch.tensor(0.7))
        boxes = row.gt_boxes[row.selected]
        from detectron2.structures import pairwise_iou

        overlap = pairwise_iou(boxes, boxes) - torch.eye(len(boxes))
        assert len(boxes) and overlap.max() <= 0.5


@pytest.mark.parametrize(
    "key, value",
    [
        *(("QUEUE_SIZE", 0), ("TEMPERATURE", 0.0), ("DISTRIBUTION_TEMPERATURE", -1.0)),
        *(("EMA_DECAY", 1.0), ("ALIGN_WEIGHT", -1.0), ("SCORE_THRESHOLD", 1.5)),
        *(("RPN_SCORE_THRESHOLD", -0.5), ("WARMUP_STEPS", -1)),
    ],
)
def test_bad_keys_are_one_line(key: str, value: float) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("DASO",)
    cfg.merge_from_list([f"SSOD.DASO.{key}", value])
    with pytest.raises(UserError, match=f"SSOD.DASO.{key} is {value}: use") as error:
        build_methods(cfg)
    assert "\n" not in str(error.value)
