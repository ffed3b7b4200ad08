"""The mixture against cases worked out by hand, and the method's memory, bounds and mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detections import pseudo_labels
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.methods.gmm_threshold import GMMThreshold, fit_mixtures, mixture_thresholds
from ssod.structures import PseudoLabels
from steps import bare_context, cfg_with


def test_two_clear_groups() -> None:
    # Class 0: 0.1, 0.2 and 0.8, 0.9, far apart; class 1: the same shifted, one invalid entry.
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.8], [0.3, 0.3, 0.6, 9.0]])
    counts = torch.tensor([4, 3])
    mixtures, high = fit_mixtures(scores, counts)
    assert mixtures.means[0].tolist() == pytest.approx([0.15, 0.85], abs=1e-3)
    assert mixtures.deviations[0].tolist() == pytest.approx([0.05, 0.05], abs=1e-3)
    assert mixtures.shares[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert high[0].round().tolist() == [0, 1, 0, 1]
    assert mixtures.means[1].tolist() == pytest.approx([0.3, 0.6], abs=1e-3)
    assert mixtures.shares[1].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-3)
    assert high[1, 3] == 0  # not valid
    assert mixture_thresholds(scores, counts, "boundary").tolist() == pytest.approx([0.8, 0.6])
    # Only 0.9 is above the mean of 0.8 and 0.9.
    assert mixture_thresholds(scores, counts, "mean").tolist() == pytest.approx([0.9, 0.6])


def test_low_scores_have_a_low_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    low = 0.06 + 0.01 * torch.rand(80, generator=generator)
    high = 0.30 + 0.05 * torch.rand(20, generator=generator)
    scores = torch.cat([low, high])[None]
    counts = torch.tensor([100])
    boundary = float(mixture_thresholds(scores, counts, "boundary"))
    mean = float(mixture_thresholds(scores, counts, "mean"))
    assert 0.07 < boundary <= 0.31 and boundary < mean < 0.35


def test_scores_that_are_all_alike() -> None:
    scores, counts = torch.full((2, 5), 0.4), torch.tensor([5, 0])
    for policy in ("boundary", "mean"):
        found = mixture_thresholds(scores, counts, policy)
        assert found[0] == pytest.approx(0.4)  # something is always selected
    with pytest.raises(ValueError, match="'most' is none of boundary, mean"):
        mixture_thresholds(scores, counts, "most")


def method(*keys: Any) -> GMMThreshold:
    cfg = cfg_with(("GMMThreshold",), "SSOD.GMM_THRESHOLD.MIN_SCORES", 2, *keys)
    return build_methods(cfg)["GMMThreshold"]  # type: ignore[return-value]


CONTEXT = bare_context()


def update(kind: GMMThreshold, pseudo: PseudoLabels) -> None:
    kind.update(None, pseudo, CONTEXT)  # type: ignore[arg-type]


def test_thresholds_follow_the_scores() -> None:
    kind = method("SSOD.GMM_THRESHOLD.SCORES_PER_CLASS", 4, "SSOD.GMM_THRESHOLD.POLICY", "boundary")
    assert kind.thresholds(CONTEXT).tolist() == [0.5, 0.5, 0.5]
    update(kind, pseudo_labels([0.1, 0.9, 0.1, 0.3], [0, 0, 0, 1]))
    assert kind.limits.tolist() == pytest.approx([0.9, 0.5, 0.5])  # class 1 has too few
    assert kind.counts.tolist() == [3, 1, 0]
    # Two more: the oldest of five leaves.
    update(kind, pseudo_labels([0.2, 0.8, 0.6], [0, 0, 1]))
    assert kind.scores[0].tolist() == pytest.approx([0.9, 0.1, 0.2, 0.8])
    assert kind.limits.tolist() == pytest.approx([0.8, 0.6, 0.5])
    chosen = kind.refine(pseudo_labels([0.79, 0.81, 0.61, 0.49, 0.51], [0, 0, 1, 2, 2]), CONTEXT)
    assert chosen.instances[0].selected.tolist() == [False, True, True, False, True]


def test_bounds_and_no_labels() -> None:
    kind = method("SSOD.GMM_THRESHOLD.LOW", 0.4, "SSOD.GMM_THRESHOLD.HIGH", 0.7)
    update(kind, pseudo_labels([0.1, 0.2, 0.1, 0.95], [0, 0, 1, 1]))
    assert kind.limits.tolist() == pytest.approx([0.4, 0.7, 0.5])
    before = kind.state_dict()
    update(kind, pseudo_labels([], []))
    update(kind, PseudoLabels([]))
    kind.update(None, None, None)  # type: ignore[arg-type]
    assert all(torch.equal(before[key], value) for key, value in kind.state_dict().items())


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("INITIAL", 1.5, "INITIAL is 1.5"),
        ("LOW", 0.99, "LOW 0.99 is above HIGH"),
        ("MIN_SCORES", 1, "MIN_SCORES is 1"),
        ("SCORES_PER_CLASS", 1, "SCORES_PER_CLASS is 1"),
        ("POLICY", "middle", "POLICY is 'middle': use 'boundary' or 'mean'"),
    ],
)
def test_wrong_values_are_one_line(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(f"SSOD.GMM_THRESHOLD.{key}", value)


def test_the_config_on_digit_scenes() -> None:
    cfg = load_config("configs/digit_scenes/gmm_threshold.yaml")
    assert "GMMThreshold" in build_methods(cfg)
