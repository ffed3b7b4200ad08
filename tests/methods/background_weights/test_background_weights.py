"""The weights of background RoIs and anchors, worked out from the teacher's own outputs."""

from __future__ import annotations

from typing import Any, Tuple

import pytest
import torch
from detectron2.structures import Boxes

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.roi_heads import classify
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import StepContext
from steps import batch, cfg_with, core_of, run_student, spread_predictions


def build(*keys: Any) -> TeacherStudent:
    methods = ("ScoreThreshold", "BackgroundWeights")
    core = core_of(cfg_with(methods, "SSOD.SCORE_THRESHOLD", 0.15, *keys), seed=1)
    spread_predictions(core, classes=0.5)
    return core


def weighed(core: TeacherStudent, count: int = 2) -> Tuple[Outputs, Outputs, StepContext]:
    """Outputs before and after `weigh`."""
    context = core.context(batch(1, count))
    pseudo = core.pseudo_labels(context) if count else None
    before = run_student(core, pseudo, context)
    method = core.methods["BackgroundWeights"]
    return before, method.weigh(before, pseudo, context), context  # type: ignore[operator]


def test_soft_weights_are_the_teachers_background_scores(storage: Any) -> None:
    core = build()
    before, after, context = weighed(core)
    assert before.unlabeled and after.unlabeled and context.teacher_outputs
    assert after.labeled is before.labeled
    for index, (roi, image) in enumerate(zip(after.unlabeled.rois, range(2))):
        rows = after.unlabeled.image_index == image
        background = roi.gt_classes == 3
        boxes = [
            Boxes(roi.proposal_boxes.tensor) if i == index else Boxes(torch.zeros(0, 4))
            for i in range(2)
        ]
        logits = classify(core.teacher.roi_heads, context.teacher_outputs.maps, boxes).logits
        scores = logits.softmax(dim=1)[:, -1]
        wanted = torch.where(background, scores / scores[background].mean(), 1.0)
        assert torch.allclose(after.unlabeled.cls_weights[rows], wanted, atol=1e-5)
    for old, new in zip(before.unlabeled.anchors, after.unlabeled.anchors):
        background = new.labels == 0
        assert torch.equal(new.cls_weights[~background], old.cls_weights[~background])
        assert new.cls_weights[background].mean() == pytest.approx(1.0, abs=1e-4)
        # Student and teacher are equal but for the view, so what looks like an object weighs less.
        order = new.cls_weights[background].argsort()
        assert len(order) > 2 and new.cls_weights[background].std() > 0


def test_ignore_leaves_doubtful_background_out(storage: Any) -> None:
    keys = ("SSOD.BACKGROUND_WEIGHTS.MODE", "ignore", "SSOD.BACKGROUND_WEIGHTS.MIN_SCORE")
    _, after, _ = weighed(build(*keys, 0.0))
    assert after.unlabeled and (after.unlabeled.cls_weights == 1).all()
    _, after, _ = weighed(build(*keys, 1.0))
    assert after.unlabeled
    background = after.unlabeled.labels == 3
    assert background.any()
    assert (after.unlabeled.cls_weights == (~background).float()).all()


def test_anchors_can_stay_as_they_are(storage: Any) -> None:
    before, after, _ = weighed(build("SSOD.BACKGROUND_WEIGHTS.RPN", False))
    assert before.unlabeled and after.unlabeled
    assert after.unlabeled.anchors is before.unlabeled.anchors


def test_no_unlabeled_images(storage: Any) -> None:
    before, after, _ = weighed(build(), count=0)
    assert after is before


@pytest.mark.parametrize("key, value", [("MODE", "hard"), ("MIN_SCORE", -0.1)])
def test_wrong_values_are_one_line(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"SSOD.BACKGROUND_WEIGHTS.{key} is {value!r}"):
        build(f"SSOD.BACKGROUND_WEIGHTS.{key}", value)
