"""Labels of the RPN that are not those of the RoI head."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.methods.acrst.crop_bank.paste import Pasted
from ssod.methods.acrst.mixup_mosaic.mixing import MixedLabels, mix_labels
from ssod.structures import PseudoLabels, SSODBatch
from tiny import make_sample, tiny_cfg


def labels(scores: List[float]) -> PseudoLabels:
    found = Instances((64, 64))
    found.pred_boxes = Boxes(torch.tensor([[4.0, 4.0, 24.0, 24.0]]).repeat(len(scores), 1))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.zeros(len(scores), dtype=torch.int64)
    return PseudoLabels.from_detections([found])


def numbers(pseudo: PseudoLabels) -> tuple[int, int]:
    """Labels of the RoI head and of the RPN."""
    return len(pseudo.to_targets()[0]), len(pseudo.to_targets(rpn=True)[0])


def test_rpn_keeps_its_own_rows_whichever_method_selects_first() -> None:
    pseudo = labels([0.4, 0.6, 0.8, 0.95])
    scores = pseudo.instances[0].scores
    low, high, last = [scores >= 0.5], [scores >= 0.9], [scores < 0.9]
    assert numbers(pseudo.select(low)) == (3, 3)
    apart = pseudo.select(low, high)
    assert numbers(apart) == (3, 1)
    assert numbers(apart.select(last)) == numbers(pseudo.select(last).select(low, high)) == (2, 0)
    # The RPN's are no part of the RoI head's: LabelMatch may ask for more than 0.9.
    assert numbers(pseudo.select(high, low)) == (1, 3)
    assert numbers(labels([])) == numbers(labels([]).select([torch.zeros(0) > 0])) == (0, 0)


@pytest.mark.parametrize(
    "method, node", [("ScoreThreshold", "SSOD"), ("SoftTeacher", "SSOD.SOFT_TEACHER")]
)
def test_step_trains_each_head_on_its_labels(storage: Any, method: str, node: str) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = (method,)
    cfg.merge_from_list([f"{node}.SCORE_THRESHOLD", 0.5, f"{node}.RPN_SCORE_THRESHOLD", 0.9])
    torch.manual_seed(0)
    core = TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))
    found = labels([0.4, 0.6, 0.95]).instances[0]
    detections = Instances((64, 64), pred_boxes=found.gt_boxes, scores=found.scores)
    detections.pred_classes = found.gt_classes
    original, seen = core.label, core.run_student

    def label(samples: Any) -> Any:
        outputs = original(samples)
        outputs.detections = [detections]
        return outputs

    views: Dict[str, Any] = {}

    def run(given: Any) -> Any:
        views["last"] = given
        return seen(given)

    core.label, core.run_student = label, run  # type: ignore[method-assign]
    losses = core(SSODBatch([make_sample(0, True)], [make_sample(9, False)]))
    assert torch.isfinite(sum(losses.values()))
    view = views["last"].unlabeled
    assert [len(t) for t in view.targets] == [2] and [len(t) for t in view.rpn_targets] == [1]
    core.methods[method].rpn_threshold = core.methods[method].rpn_score_threshold = 0.0
    core(SSODBatch([make_sample(0, True)], [make_sample(9, False)]))
    assert views["last"].unlabeled.rpn_targets is None


def test_pasted_and_mixed_in_objects_are_labels_of_both_heads() -> None:
    pseudo = labels([0.6, 0.95]).select([torch.tensor([True, True])], [torch.tensor([False, True])])
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
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("ScoreThreshold", "CropBank")
    bank: Any = build_methods(cfg)["CropBank"]
    pasted = Pasted(
        boxes=torch.tensor([[40.0, 40.0, 60.0, 60.0]]),
        classes=torch.tensor([2]),
        scores=torch.ones(1),
        banks=torch.zeros(1, dtype=torch.int64),
    )
    merged = bank._merge(row, pasted, 1.0)
    assert merged.rpn_selected.tolist() == [False, True, True]


@pytest.mark.parametrize("node", ["SSOD", "SSOD.SOFT_TEACHER"])
def test_bad_threshold_is_one_line(node: str) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = ("ScoreThreshold" if node == "SSOD" else "SoftTeacher",)
    cfg.merge_from_list([f"{node}.RPN_SCORE_THRESHOLD", 1.5])
    with pytest.raises(UserError, match=f"{node}.RPN_SCORE_THRESHOLD is 1.5: use a score"):
        build_methods(cfg)
