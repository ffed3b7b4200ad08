"""CReST's sampling and CReST+'s alignment by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detections import pseudo_labels
from ssod.errors import UserError
from ssod.methods import TrainingData, build_methods
from ssod.methods.crest import (
    DistributionAlignment,
    align_distributions,
    generation_temperature,
    kept_shares,
    most_confident,
    target_distribution,
)
from ssod.methods.shared.relabelling import Labelled
from steps import batch, cfg_with, core_of


def test_shares_by_hand() -> None:
    # Ranked: class 1 (64), 0 (27), 2 (8). The first gets (8/64)^(1/3), the second (27/64)^(1/3),
    # the last 1.
    shares = kept_shares(torch.tensor([27, 64, 8]), 3.0)
    assert shares.tolist() == pytest.approx([0.75, 0.5, 1.0])
    assert kept_shares(torch.tensor([5, 0]), 3.0).tolist() == [0.0, 1.0]
    assert kept_shares(torch.tensor([4, 4]), 3.0).tolist() == [1.0, 1.0]
    assert kept_shares(torch.zeros(2), 3.0).tolist() == [0.0, 0.0]


def test_most_confident_by_hand() -> None:
    classes = torch.tensor([0, 1, 0, 0, 1, 0])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.7, 0.2, 0.8])
    kept = most_confident(classes, scores, torch.tensor([0.75, 0.5]))
    assert kept.tolist() == [False, True, True, True, False, True]
    assert most_confident(classes, scores, torch.tensor([0.25, 0.0])).tolist() == [
        *(False, False, True, False, False, False)  # of equal scores the earlier
    ]
    assert most_confident(torch.zeros(10).long(), torch.rand(10), torch.tensor([0.3])).sum() == 3
    assert not len(most_confident(classes[:0], scores[:0], torch.ones(2)))


def test_temperature_falls_from_1() -> None:
    assert [generation_temperature(g, 3, 0.5) for g in range(3)] == [1.0, 0.75, 0.5]
    assert generation_temperature(0, 1, 0.5) == 1.0


def test_target_distribution_by_hand() -> None:
    counts = torch.tensor([16.0, 4.0, 0.0])
    assert target_distribution(counts, 1.0).tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert target_distribution(counts, 0.5).tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert target_distribution(counts, 0.0).tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_alignment_by_hand() -> None:
    found = align_distributions(
        torch.tensor([[0.6, 0.2], [0.0, 0.5]]), torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    )
    # 0.6 / 1.8 : 0.2 * 5 = 1 : 3, of 0.8 in all.
    assert found.flatten().tolist() == pytest.approx([0.2, 0.6, 0.0, 0.5], abs=1e-4)
    assert align_distributions(torch.zeros(0, 2), torch.ones(2) / 2, torch.ones(2) / 2).shape == (
        0,
        2,
    )


def test_alignment_in_the_step(storage: Any) -> None:
    node = "SSOD.DISTRIBUTION_ALIGNMENT"
    own = [f"{node}.SCORE_THRESHOLD", 0.1, f"{node}.EMA_DECAY", 0.75, "SSOD.BURN_IN_STEPS", 0]
    core = core_of(cfg_with(("DistributionAlignment",), *own))
    method = core.methods["DistributionAlignment"]
    assert isinstance(method, DistributionAlignment)
    records = [{"annotations": [{"category_id": c} for c in (0, 0, 0, 0, 1)]}]
    records += [{"annotations": [{"category_id": 2}] * 9, "dataset_name": "crest_labels"}]  # type: ignore[dict-item]
    method.setup(TrainingData(labeled=records, unlabeled=[], class_names=["a", "b", "c"]))
    images = batch(1, 2)
    core(images)
    first = method.model.clone()
    assert float(first.sum()) == pytest.approx(1.0)  # it starts with the first batch
    core(images)
    assert float(method.model.sum()) == pytest.approx(1.0)
    # The labelled set has no object of class 2: none is left among the labels.
    assert not any((row.gt_classes == 2).any() for row in core.last_pseudo.instances)
    assert any((row.gt_classes == 0).any() for row in core.last_pseudo.instances)


def test_activity_counts_what_alignment_changes() -> None:
    cfg = cfg_with(("DistributionAlignment",), "SSOD.DISTRIBUTION_ALIGNMENT.SCORE_THRESHOLD", 0.5)
    method: Any = build_methods(cfg)["DistributionAlignment"]
    # The last two labels are of the same box: the second one is never learnt, whatever alignment
    # does.
    boxes = [[10.0 * i, 0, 10.0 * i + 8, 8] for i in (0, 1, 2, 2)]
    pseudo = pseudo_labels([0.6, 0.4, 0.9, 0.1], [0, 1, 0, 1], boxes)
    probabilities = torch.tensor([[0.6, 0.2], [0.3, 0.4], [0.9, 0.1], [0.9, 0.1]])
    aligned = torch.tensor([[0.2, 0.6], [0.1, 0.6], [0.9, 0.1], [0.9, 0.1]])
    predictor = SimpleNamespace(test_nms_thresh=0.5)
    for distribution, changed in ((probabilities, 0), (aligned, 2)):
        teacher = SimpleNamespace(roi_heads=SimpleNamespace(box_predictor=predictor))
        context: Any = SimpleNamespace(step=100, teacher=teacher, shared={})
        method.judge = lambda *_: Labelled(probabilities, torch.zeros(4, 1), torch.zeros(()))
        method.redistribute = lambda *_, value=distribution: value
        refined = method.refine(pseudo, context)
        assert float(method.activity(None, refined, context)) == changed
    # Another class; selected only now; as before; the same box as before.
    assert refined.instances[0].gt_classes.tolist() == [1, 1, 0, 0]
    assert refined.instances[0].selected.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    "key, value", [("TEMPERATURE", 1.5), ("EMA_DECAY", -0.5), ("SCORE_THRESHOLD", -0.5)]
)
def test_bad_keys_are_one_line(key: str, value: float) -> None:
    cfg = cfg_with(("DistributionAlignment",), f"SSOD.DISTRIBUTION_ALIGNMENT.{key}", value)
    with pytest.raises(UserError, match=f"DISTRIBUTION_ALIGNMENT.{key} is {value}: use"):
        build_methods(cfg)
