"""CrS: the memory of labels, generations, thresholds."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np
import pytest
import torch

from ci_steps import CRS, GBR, GBT, Context, build, labels_of
from ssod.methods import TrainingData
from ssod.methods.ci_ssod import (
    ClassRebalancingSampling,
    image_repeat_factors,
)
from ssod.methods.ci_ssod.label_memory import LabelMemory
from steps import batch
from tiny import make_sample


def test_memory_keeps_the_last_visit_and_the_best_score_of_a_class() -> None:
    memory = LabelMemory(3)
    samples = [make_sample(3, False), make_sample(7, False)]
    memory.remember(samples, labels_of([[(0, 0.5), (0, 0.9), (2, 0.6), (1, 0.1)], []], 0.3))
    assert [v.tolist() for v in memory.rows()[:2]] == [[3, 3], [0, 2]]
    assert memory.rows()[2].tolist() == pytest.approx([0.9, 0.6])
    assert memory.visited == 2
    assert memory.class_image_counts().tolist() == [1, 0, 1]
    memory.remember(samples[:1], labels_of([[(1, 0.7)]]))
    assert memory.class_image_counts().tolist() == [0, 1, 0] and memory.visited == 2
    again = LabelMemory(3)
    again.load_state_dict(memory.state_dict())
    assert again.visited == 2 and [v.tolist() for v in again.rows()] == [
        v.tolist() for v in memory.rows()
    ]


def test_unreadable_files_beside_an_image_do_not_matter() -> None:
    """A substitute has its own index, and a crop that could not be pasted is no reason to forget
    its host.
    """
    memory = LabelMemory(3)
    sample = make_sample(3, False)
    sample.skipped = [("broken.png", "truncated")]
    memory.remember([sample], labels_of([[(0, 0.9)]]))
    assert [v.tolist() for v in memory.rows()[:2]] == [[3], [0]]


def test_an_image_twice_in_a_step_counts_once() -> None:
    memory = LabelMemory(2)
    assert memory.visited == 0 and memory.class_image_counts().tolist() == [0, 0]
    memory.remember([make_sample(4, False)] * 2, labels_of([[(0, 0.9)], [(0, 0.8), (1, 0.7)]]))
    assert memory.visited == 1 and memory.class_image_counts().tolist() == [1, 1]
    assert memory.rows()[2].tolist() == pytest.approx([0.9, 0.7])
    memory.remember([], labels_of([]))
    memory.remember([make_sample(4, False)], labels_of([[]]))
    assert memory.visited == 1 and len(memory.rows()[0]) == 0


def sampling(**keywords: Any) -> ClassRebalancingSampling:
    values: Dict[str, Any] = {
        "threshold": 0.8,
        "generations": 4,
        "gamma": 2.0,
        "num_classes": 3,
        "first_step": 20,
        "last_step": 100,
        "remember_from": 20,
        "fixed_threshold": 0.5,
        **keywords,
    }
    method = ClassRebalancingSampling(**values)
    images = [[0], [0], [0, 1], [0], []]
    labeled = [{"annotations": [{"category_id": c} for c in image]} for image in images]
    labeled[0]["annotations"].append({"category_id": 1, "iscrowd": 1})  # which nobody learns
    method.setup(TrainingData(labeled, [{}] * 6, ["a", "b", "c"]))
    return method


def test_generations_publish_the_factors_of_equation_11() -> None:
    method = sampling()
    first = method.snapshot(1)
    assert first is not None
    assert first["repeat_factors_labeled"].tolist() == pytest.approx([1, 1, 2, 1, 1])
    assert first["repeat_factors_unlabeled"].tolist() == [1.0] * 6
    assert method.snapshot(2) is None
    rows = [[(1, 0.95)], [(2, 0.8), (0, 0.9)], [], [(0, 0.99)]]
    samples = [make_sample(i, False) for i in (5, 0, 1, 2)]
    method.memory.remember(samples, labels_of(rows))
    published = {step: method.snapshot(step) for step in range(3, 101)}
    assert [step for step, arrays in published.items() if arrays] == [20, 40, 60, 80]
    for generation, step in enumerate((20, 40, 60, 80)):
        arrays = published[step]
        assert arrays is not None
        # Labelled images: class 0 in 4, class 1 in 1; visited: 4 of 6.
        wanted = image_repeat_factors(
            [
                (torch.tensor([2, 0]), torch.tensor([0.8, 0.9])),
                (torch.tensor([], dtype=torch.int64), torch.tensor([])),
                (torch.tensor([0]), torch.tensor([0.99])),
                *[(torch.tensor([], dtype=torch.int64), torch.tensor([]))] * 2,
                (torch.tensor([1]), torch.tensor([0.95])),
            ],
            torch.tensor([6, 2, 1]),
            9,
            torch.full((3,), 0.5),
            2.0 * generation / 4,
        )
        assert np.allclose(arrays["repeat_factors_unlabeled"], wanted)
        assert np.allclose(arrays["repeat_factors_labeled"], [1, 1, 2, 1, 1])
    last = published[80]
    assert last is not None and last["repeat_factors_unlabeled"].max() > 1


def test_nothing_is_remembered_during_warm_up(storage: Any) -> None:
    core = build(("ScoreThreshold", CRS), "SSOD.CLASS_REBALANCING_SAMPLING.WARMUP_STEPS", 2)
    for step, visited in ((0, 0), (1, 0), (2, 2)):
        core.step = step
        core(batch())
        assert core.methods[CRS].memory.visited == visited


def test_a_run_too_short_for_its_generations() -> None:
    method = sampling(generations=10, first_step=1, last_step=3)
    assert sorted(method.begins) == [1, 2, 3] and method.begins[3] == 9


def test_sampling_takes_the_thresholds_of_gbt(storage: Any) -> None:
    core = build((GBR, GBT, CRS))
    core.methods[GBR].balance.logits.copy_(torch.tensor([1.0, 0.0, -1.0, 0.0]))
    crs = core.methods[CRS]
    assert crs.thresholds.tolist() == pytest.approx([0.7] * 3)  # the fixed one
    core(batch())
    context: Any = Context(**dict(core.methods.items()))
    assert torch.equal(crs.thresholds, core.methods[GBT].thresholds(context))
    assert crs.memory.visited == 2
