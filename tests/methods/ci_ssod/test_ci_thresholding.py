"""GbT and LabelMatch inside the step."""

from __future__ import annotations

from typing import Any, List

import pytest
import torch

from ci_steps import GBR, GBT, Context, build, labels_of
from ssod.methods import TrainingData
from ssod.methods.ci_ssod import (
    GradientThresholding,
    LabelMatchThresholds,
)
from steps import batch


def test_thresholding_alone_has_the_same_weights_as_with_reweighting(storage: Any) -> None:
    """Over one step, before weights change what is learnt."""
    keys = ("SSOD.GRADIENT_REWEIGHTING.LR", 0.3)
    alone, both, swapped = build((GBT,), *keys), build((GBR, GBT), *keys), build((GBT, GBR), *keys)
    for core in (alone, both, swapped):
        core(batch())
    weights = alone.methods[GBT].balance.weights
    assert (weights != 1).any()
    for core in (both, swapped):
        assert core.methods[GBT].balance is None
        assert torch.equal(core.methods[GBR].balance.weights, weights)


def test_thresholds_select_by_class(storage: Any) -> None:
    core = build((GBR, GBT))
    core.methods[GBR].balance.logits.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    gbt = core.methods[GBT]
    weight = float(4 * torch.softmax(torch.tensor([1.0, 0.0, 0.0, 0.0]), 0)[0])
    assert weight > 1.8  # theta / w < 0.5
    pseudo = labels_of([[(0, 0.51), (0, 0.49), (1, 0.89), (1, 0.91)], []])
    context: Any = Context(**{GBR: core.methods[GBR]})
    selected = gbt.refine(pseudo, context).instances
    assert selected[0].selected.tolist() == [True, False, False, True]
    assert not len(selected[1].selected)


def test_fixed_threshold_during_warm_up() -> None:
    core = build((GBT,), "SSOD.GRADIENT_THRESHOLDING.WARMUP_STEPS", 10, "SSOD.BURN_IN_STEPS", 5)
    gbt = core.methods[GBT]
    gbt.score_means.copy_(torch.tensor([0.2, 0.4, 0.6]))
    warm, after = gbt.thresholds(Context(14)), gbt.thresholds(Context(15))
    assert warm.tolist() == pytest.approx([0.9] * 3)
    assert after.tolist() == pytest.approx([0.5, 0.9, 0.9])
    match = build(("LabelMatchThresholds",), "SSOD.LABEL_MATCH.WARMUP_STEPS", 10)
    method = match.methods["LabelMatchThresholds"]
    method.seen.fill_(1.0)
    assert method.thresholds(Context(9)).tolist() == pytest.approx([0.9] * 3)
    assert method.thresholds(Context(10)).tolist() != pytest.approx([0.9] * 3)


@pytest.mark.parametrize("own, expected", [(0.9, [3, 1]), (0.0, [3, 3]), (0.85, [3, 2])])
def test_rpn_keeps_its_fixed_threshold(own: float, expected: List[int]) -> None:
    core = build((GBT,), "SSOD.GRADIENT_THRESHOLDING.RPN_SCORE_THRESHOLD", own)
    gbt = core.methods[GBT]
    gbt.score_means.copy_(torch.tensor([0.2, 0.4, 0.6]))  # thresholds 0.5, 0.9, 0.9
    pseudo = labels_of([[(0, 0.51), (0, 0.6), (1, 0.91), (1, 0.89), (2, 0.2)]])
    row = gbt.refine(pseudo, Context()).instances[0]
    rpn = row.rpn_selected if row.has("rpn_selected") else row.selected
    assert [int(row.selected.sum()), int(rpn.sum())] == expected


def test_score_means_start_with_the_first_batch_and_skip_absent_classes() -> None:
    core = build((GBT,), "SSOD.GRADIENT_THRESHOLDING.EMA_DECAY", 0.75)
    gbt = core.methods[GBT]
    assert isinstance(gbt, GradientThresholding) and gbt.balance is not None
    gbt.balance.update = lambda outputs, applied=None: None  # type: ignore[method-assign]
    context: Any = Context()
    gbt.update(None, labels_of([[(0, 0.2), (0, 0.4)], [(1, 0.8)]]), context)  # type: ignore[arg-type]
    assert gbt.score_means.tolist() == pytest.approx([0.3, 0.8, 0.0])
    gbt.update(None, labels_of([[(0, 0.7)], []]), context)  # type: ignore[arg-type]
    assert gbt.score_means.tolist() == pytest.approx([0.75 * 0.3 + 0.25 * 0.7, 0.8, 0.0])
    # The mean of the seen ones is 0.6; the third class has the gradient term alone, w = 1.
    assert gbt.thresholds(context).tolist() == pytest.approx([0.6, 0.9, 0.9])


def test_label_match_follows_the_labelled_counts() -> None:
    core = build(("LabelMatchThresholds",), "SSOD.LABEL_MATCH.EMA_DECAY", 0.5)
    method = core.methods["LabelMatchThresholds"]
    assert isinstance(method, LabelMatchThresholds)
    records = [{"annotations": [{"category_id": 0}, {"category_id": 0}, {"category_id": 1}]}]
    method.setup(TrainingData(labeled=records, unlabeled=[], class_names=["a", "b", "c"]))
    context: Any = Context()
    assert method.thresholds(context).tolist() == pytest.approx([0.9] * 3)
    scores = [(0, 0.305), (0, 0.505), (0, 0.705), (1, 0.605), (1, 0.405), (2, 0.955)]
    for _ in range(3):  # the same distribution again and again: averaging does not matter
        method.update(None, labels_of([scores, scores]), context)  # type: ignore[arg-type]
    found = method.thresholds(context)
    kept = [sum(s >= found[c] for k, s in scores if k == c) for c in range(3)]
    assert kept == [2, 1, 0]


def test_a_stricter_selection_beside_it_is_named(caplog: pytest.LogCaptureFixture) -> None:
    build(("SoftTeacher", GBT))
    (warning,) = [r.message for r in caplog.records if "GradientThresholding" in r.message]
    assert "SSOD.SOFT_TEACHER.SCORE_THRESHOLD 0.9" in warning and "LOW, 0.5, or below" in warning
    caplog.clear()
    build(("SoftTeacher", GBT), "SSOD.SOFT_TEACHER.SCORE_THRESHOLD", 0.5)
    assert not caplog.records
