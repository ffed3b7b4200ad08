"""Soft Teacher step by step: selection, jitter, background weights, its own assignment for
regression, EMA warm-up.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import List, Tuple

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn

from detections import detections
from ssod.detectors.rcnn.roi_heads import classify
from ssod.engine.ema import MovingAverage
from ssod.engine.hooks import TeacherUpdate
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import StepContext
from ssod.methods.hosts import SoftTeacher
from ssod.plotting.run_data import load_runs
from ssod.structures import PseudoLabels
from steps import batch, cfg_with, core_of, run_student, spread_predictions


def build(*keys: object) -> TeacherStudent:
    core = core_of(cfg_with(("SoftTeacher",), "SSOD.UNSUP_LOSS_WEIGHT", 4.0, *keys))
    spread_predictions(core, boxes=0.2)  # so that refinements differ
    return core


def row_of_boxes(scores: List[float]) -> Instances:
    """Boxes of 20 x 20 pixels, each shifted by 6 against the one before."""
    corner = torch.arange(len(scores)).float()[:, None] * 6 + torch.tensor([4.0, 2.0])
    return detections(scores, boxes=torch.cat([corner, corner + 20], dim=1))


def step(core: TeacherStudent, scores: List[List[float]]) -> Tuple[PseudoLabels, StepContext]:
    """Refined labels of unlabelled images on which the teacher is made to detect these scores."""
    context = core.context(batch(1, len(scores)))
    found = core.label(context.batch.unlabeled)
    context.teacher_outputs = replace(found, detections=[row_of_boxes(row) for row in scores])
    return core.refine(context), context


def test_which_labels_classify_and_which_regress() -> None:
    core = build("SSOD.SOFT_TEACHER.MAX_DEVIATION", 0.035)
    scores = [[0.95, 0.9, 0.7, 0.51, 0.5, 0.2], [], [0.91, 0.3]]
    with EventStorage(0):
        pseudo, context = step(core, scores)
    assert [row.selected.tolist() for row in pseudo.instances] == [
        [True] + [False] * 5,
        [],
        [True, False],
    ]
    heads = core.teacher.roi_heads
    deviations = []
    for image, row in enumerate(pseudo.instances):
        generator = torch.Generator().manual_seed(10 + image)
        known = [i for i, score in enumerate(scores[image]) if score > 0.5]
        draws = torch.rand((10, len(known), 4), generator=generator) * 2 - 1
        weights = torch.zeros(len(row))
        for position, index in enumerate(known):
            x0, y0, x1, y1 = row.gt_boxes.tensor[index].tolist()
            size = torch.tensor([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
            copies = row.gt_boxes.tensor[index] + draws[:, position] * 0.06 * size
            maps = context.teacher_outputs.maps.select(image, image + 1)
            deltas = classify(heads, maps, [Boxes(copies)]).deltas
            own = deltas.view(10, 3, 4)[:, int(row.gt_classes[index])]
            refined = heads.box_predictor.box2box_transform.apply_deltas(own, copies)
            refined = refined.clamp(0, 64)
            deviation = float((refined.std(dim=0) / size).mean())
            deviations.append(deviation)
            weights[index] = float(deviation < 0.035)
        assert torch.equal(row.roi_reg_weight, weights) and torch.equal(row.rpn_reg_weight, weights)
        assert (row.roi_cls_weight == 1).all()
    # The limit lies among them, or the test would say nothing.
    assert min(deviations) < 0.035 < max(deviations)


def test_refine_repeats_and_draws_no_global_random_number() -> None:
    core = build("SSOD.SOFT_TEACHER.MAX_DEVIATION", 0.1)
    with EventStorage(0):
        first, context = step(core, [[0.95, 0.7, 0.6, 0.55, 0.8]])
        before = torch.get_rng_state()
        again = core.refine(context)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.instances[0].roi_reg_weight, again.instances[0].roi_reg_weight)


def test_background_weighs_what_the_teacher_says() -> None:
    core = build()
    with EventStorage(0):
        pseudo, context = step(core, [[0.95, 0.6], [0.3]])
        nn.init.normal_(core.teacher.roi_heads.box_predictor.cls_score.weight, std=0.5)
        outputs = run_student(core, pseudo, context)
        weighed = core.methods["SoftTeacher"].weigh(outputs, pseudo, context)
    assert weighed.labeled is outputs.labeled
    view, heads = weighed.unlabeled, core.teacher.roi_heads
    assert not view.cls_weights.requires_grad and (view.reg_weights == 0).all()
    foreground = view.labels < 3
    assert foreground.any() and (view.cls_weights[foreground] == 1).all()
    for image, roi in enumerate(view.rois):
        maps = context.teacher_outputs.maps.select(image, image + 1)
        score = classify(heads, maps, [roi.proposal_boxes]).logits.softmax(dim=1)[:, 3]
        score = score[roi.gt_classes == 3]
        own = view.cls_weights[(view.image_index == image) & ~foreground]
        torch.testing.assert_close(own, len(score) * score / score.sum())
        assert own.std() > 0.01


def test_regression_has_its_own_assignment() -> None:
    core = build(
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0
    )
    method = core.methods["SoftTeacher"]
    with EventStorage(0):
        pseudo, context = step(core, [[0.95, 0.7, 0.6], [0.95]])
        weights = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0])]
        pseudo = pseudo.with_columns([{"roi_reg_weight": weight} for weight in weights])
        outputs = run_student(core, pseudo, context)
        losses = method.losses(outputs, pseudo, context)
    assert list(losses) == ["loss_box_reg_reliable"]
    # Worked out by hand: the unselected label of score 0.7 regresses the first image's proposals
    # that overlap it by half.
    heads, view = core.student.roi_heads, outputs.unlabeled
    box = pseudo.instances[0].gt_boxes[1:2]
    boxes = Boxes.cat([view.proposals[0].proposal_boxes, box])
    near = pairwise_iou(boxes, box)[:, 0] >= 0.5
    deltas = classify(heads, view.maps.select(0, 1), [boxes[near]]).deltas.view(-1, 3, 4)[:, 1]
    target = heads.box_predictor.box2box_transform.get_deltas(
        boxes[near].tensor, box.tensor.expand(int(near.sum()), 4)
    )
    # Every proposal is sampled, and the label itself in the first image.
    count = sum(len(proposal) for proposal in view.proposals) + 1
    wanted = 4.0 * (deltas - target).abs().sum() / count
    torch.testing.assert_close(losses["loss_box_reg_reliable"], wanted)
    losses["loss_box_reg_reliable"].backward()
    assert core.student.roi_heads.box_predictor.bbox_pred.weight.grad.abs().sum() > 0
    assert core.student.roi_heads.box_predictor.cls_score.weight.grad is None  # it only regresses


def test_nothing_regresses_and_burn_in() -> None:
    core = build()
    method = core.methods["SoftTeacher"]
    with EventStorage(0):
        pseudo, context = step(core, [[0.3], []])
        outputs = run_student(core, pseudo, context)
        losses = method.losses(outputs, pseudo, context)
        burn_in = replace(outputs, unlabeled=None)
        assert method.losses(burn_in, None, context) == {}
        assert method.weigh(burn_in, None, context) is burn_in
    loss = losses["loss_box_reg_reliable"]
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize(
    "key, value", [("SCORE_THRESHOLD", 1.5), ("REG_SCORE_THRESHOLD", -0.1), ("NUM_JITTERS", 1)]
)
def test_bad_keys_are_named(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"SSOD.SOFT_TEACHER.{key}"):
        build(f"SSOD.SOFT_TEACHER.{key}", value)


def test_average_warms_up() -> None:
    teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    hook = TeacherUpdate(MovingAverage(teacher, student), 0.7, None, warmup=True)
    values, found = [3.0, 6.0, 0.0, 1.0, 2.0], []
    for iteration, value in enumerate(values):
        nn.init.constant_(student.weight, value)
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.after_step()
        found.append(teacher.weight.item())
    # Means of the first students; from 1 - 1/4 > 0.7 on, the decay.
    fourth = 0.7 * 3.0 + 0.3 * 1.0
    assert found == pytest.approx([3.0, 4.5, 3.0, fourth, 0.7 * fourth + 0.3 * 2.0])


def test_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "metrics.json").write_text("")
    assert SoftTeacher.report_section(load_runs([str(tmp_path)])[0]) is None
    line = '{"iteration": 1, "soft_teacher/background_score": 0.6}\n'
    (tmp_path / "metrics.json").write_text(line)
    section = SoftTeacher.report_section(load_runs([str(tmp_path)])[0])
    assert section is not None and "background score" in section.html
