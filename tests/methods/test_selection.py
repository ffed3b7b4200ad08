"""Labels of the RPN that are not those of the RoI head."""

from __future__ import annotations

from typing import Any, Dict

import pytest
import torch

from detections import detections, pseudo_labels
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.methods.acrst.crop_bank.merging import with_pasted
from ssod.methods.acrst.crop_bank.paste import Pasted
from ssod.methods.acrst.mixup_mosaic.mixing import MixedLabels, mix_labels
from ssod.structures import PseudoLabels
from steps import batch, cfg_with, core_of, teacher_finds


def numbers(pseudo: PseudoLabels) -> tuple[int, int]:
    """Labels of the RoI head and of the RPN."""
    return len(pseudo.to_targets()[0]), len(pseudo.to_targets(rpn=True)[0])


def test_rpn_keeps_its_own_rows_whichever_method_selects_first() -> None:
    pseudo = pseudo_labels([0.4, 0.6, 0.8, 0.95])
    scores = pseudo.instances[0].scores
    low, high, last = [scores >= 0.5], [scores >= 0.9], [scores < 0.9]
    assert numbers(pseudo.select(low)) == (3, 3)
    apart = pseudo.select(low, high)
    assert numbers(apart) == (3, 1)
    assert numbers(apart.select(last)) == numbers(pseudo.select(last).select(low, high)) == (2, 0)
    # The RPN's are no part of the RoI head's: LabelMatch may ask for more than 0.9.
    assert numbers(pseudo.select(high, low)) == (1, 3)
    assert (
        numbers(pseudo_labels([]))
        == numbers(pseudo_labels([]).select([torch.zeros(0) > 0]))
        == (0, 0)
    )


@pytest.mark.parametrize(
    "method, node", [("ScoreThreshold", "SSOD"), ("SoftTeacher", "SSOD.SOFT_TEACHER")]
)
def test_step_trains_each_head_on_its_labels(storage: Any, method: str, node: str) -> None:
    own = [f"{node}.SCORE_THRESHOLD", 0.5, f"{node}.RPN_SCORE_THRESHOLD", 0.9]
    core = core_of(cfg_with((method,), *own))
    teacher_finds(core, [detections([0.4, 0.6, 0.95])])
    seen = core.run_student
    views: Dict[str, Any] = {}

    def run(given: Any) -> Any:
        views["last"] = given
        return seen(given)

    core.run_student = run  # type: ignore[method-assign]
    losses = core(batch(1, 1))
    assert torch.isfinite(sum(losses.values()))
    view = views["last"].unlabeled
    assert [len(t) for t in view.targets] == [2] and [len(t) for t in view.rpn_targets] == [1]
    core.methods[method].rpn_threshold = core.methods[method].rpn_score_threshold = 0.0
    core(batch(1, 1))
    assert views["last"].unlabeled.rpn_targets is None


def test_pasted_and_mixed_in_objects_are_labels_of_both_heads() -> None:
    pseudo = pseudo_labels([0.6, 0.95]).select(
        [torch.tensor([True, True])], [torch.tensor([False, True])]
    )
    (row,) = pseudo.instances
    mixed = MixedLabels(
        boxes=torch.tensor([[40.0, 40.0, 60.0, 60.0]]),
        classes=torch.tensor([2]),
        weight=0.5,
        own_region=torch.tensor([0.0, 0.0, 64.0, 64.0]),
        own_weight=0.5,
    )
    found = mix_labels(row, mixed, 0.25)
    assert found.selected.tolist() == [True, True, True]
    assert found.rpn_selected.tolist() == [False, True, True]
    pasted = Pasted(
        boxes=torch.tensor([[40.0, 40.0, 60.0, 60.0]]),
        classes=torch.tensor([2]),
        scores=torch.ones(1),
        banks=torch.zeros(1, dtype=torch.int64),
    )
    merged = with_pasted(
        row, pasted, min_visible_fraction=0.0, regress_own=False, regress_pasted=True
    )
    assert merged.rpn_selected.tolist() == [False, True, True]


@pytest.mark.parametrize("node", ["SSOD", "SSOD.SOFT_TEACHER"])
def test_bad_threshold_is_one_line(node: str) -> None:
    methods = ("ScoreThreshold" if node == "SSOD" else "SoftTeacher",)
    cfg = cfg_with(methods, f"{node}.RPN_SCORE_THRESHOLD", 1.5)
    with pytest.raises(UserError, match=f"{node}.RPN_SCORE_THRESHOLD is 1.5: use a score"):
        build_methods(cfg)
