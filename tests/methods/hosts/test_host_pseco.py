"""PseCo step by step: its proposals, positives, box weights and second view."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, Tuple

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.events import EventStorage

from detections import detections
from ssod.detectors.outputs import Outputs
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import StepContext
from ssod.methods.hosts import PseCo
from ssod.methods.shared.half_size import HALF_SIZE
from ssod.plotting.run_data import load_runs
from ssod.structures import PseudoLabels, make_targets
from steps import batch, cfg_with, core_of, run_student, spread_predictions


def build(*keys: object) -> TeacherStudent:
    # Many proposals, so that several overlap each label.
    own = ["MODEL.RPN.PRE_NMS_TOPK_TEST", 300, "MODEL.RPN.POST_NMS_TOPK_TEST", 150]
    own += ["MODEL.RPN.NMS_THRESH", 0.9, "SSOD.UNSUP_LOSS_WEIGHT", 2.0]
    core = core_of(cfg_with(("PseCo",), *own, *keys), seed=1)
    spread_predictions(core, classes=0.5, boxes=0.1)
    return core


def step(core: TeacherStudent, scores: List[List[float]]) -> Tuple[PseudoLabels, StepContext]:
    """Refined labels of unlabelled images; the teacher is made to detect its own proposals with
    these scores.
    """
    context = core.context(batch(1, len(scores)))
    found, rows = core.label(context.batch.unlabeled), []
    for proposals, row in zip(found.proposals, scores):
        boxes = proposals.proposal_boxes
        large = boxes.area().argsort(descending=True)[: 30 * len(row) : 30]
        rows.append(detections(row, boxes=boxes.tensor[large]))
    context.teacher_outputs = replace(found, detections=rows)
    return core.refine(context), context


def test_every_label_above_the_threshold_classifies_and_regresses() -> None:
    core = build()
    with EventStorage(0):
        pseudo, _ = step(core, [[0.9, 0.51, 0.5, 0.1], []])
    first = pseudo.instances[0]
    assert first.selected.tolist() == [True, True, False, False]
    assert (first.roi_reg_weight == 1).all() and (first.rpn_reg_weight == 1).all()


def test_rois_are_the_teachers_proposals_by_its_predictions() -> None:
    # Every RoI is sampled, so that all of the assignment shows.
    core = build(
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000),
        *("MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0, "SSOD.PSECO.TOP_CANDIDATES", 3),
    )
    with EventStorage(0):
        pseudo, context = step(core, [[0.9, 0.6, 0.3], [0.2]])
        outputs = run_student(core, pseudo, context)
    teacher = context.teacher_outputs
    heads, positives = core.teacher.roi_heads, 0
    first = 0
    for image, (proposals, roi) in enumerate(zip(teacher.proposals, outputs.unlabeled.rois)):
        count = len(proposals)
        logits, deltas = (
            x[first : first + count]
            for x in (teacher.predictions.logits, teacher.predictions.deltas)
        )
        first += count
        kept = pseudo.instances[image][pseudo.instances[image].selected]
        boxes = proposals.proposal_boxes
        ious = pairwise_iou(boxes, kept.gt_boxes)
        wanted = {}
        for label in range(len(kept)):
            category, bag = int(kept.gt_classes[label]), []
            for i in range(count):
                if ious[i].argmax() == label and ious[i, label] >= 0.4:
                    box = heads.box_predictor.box2box_transform.apply_deltas(
                        deltas[i].view(3, 4)[category][None], boxes[i].tensor
                    ).clamp(0, 64)
                    u = float(pairwise_iou(Boxes(box), kept.gt_boxes[label])[0, 0])
                    bag.append((float(logits[i].softmax(0)[category]) * u, u, i))
            k = max(1, int(sum(sorted((u for _, u, _ in bag), reverse=True)[:3])))
            for _, _, i in sorted(bag, reverse=True)[:k]:
                wanted[i] = label
            assert len(bag) > k or label > 0  # something is left out
        # Detectron2 draws a permutation, so compare as sets of boxes.
        found = {
            tuple(box): (int(category), tuple(gt))
            for box, category, gt in zip(
                roi.proposal_boxes.tensor.tolist(), roi.gt_classes, roi.gt_boxes.tensor.tolist()
            )
        }
        assert len(roi) == count
        for i, box in enumerate(boxes.tensor.tolist()):
            if i in wanted:
                gt = kept.gt_boxes.tensor[wanted[i]].tolist()
                assert found[tuple(box)] == (int(kept.gt_classes[wanted[i]]), tuple(gt))
            else:
                assert found[tuple(box)] == (3, tuple(box))
        background = roi.gt_classes == 3
        assert (roi.gt_scores[background] == 0).all() and (roi.gt_scores[~background] > 0.5).all()
        positives += len(wanted)
    assert positives >= 2


def test_a_label_that_no_proposal_is_near_is_its_own_roi() -> None:
    core = build()
    with EventStorage(0):
        pseudo, context = step(core, [[0.9]])
        pasted = torch.tensor([[60.0, 60, 63, 63]])
        target = make_targets(
            (64, 64), pasted, torch.tensor([2]), weights={"roi_cls_weight": torch.tensor([0.25])}
        )
        roi = core.methods["PseCo"]._sample_rois(context, [], [target])[0]
    row = (roi.gt_classes < 3).nonzero().flatten()
    assert roi.proposal_boxes.tensor[row].tolist() == pasted.tolist()
    assert roi.gt_roi_cls_weight[row].tolist() == [0.25]
    assert (roi.gt_roi_cls_weight[roi.gt_classes == 3] == 1).all()


def test_boxes_weigh_what_the_student_predicts_for_them() -> None:
    core = build()
    method = core.methods["PseCo"]
    with EventStorage(0):
        pseudo, context = step(core, [[0.9, 0.8], [], [0.7]])
        outputs = run_student(core, pseudo, context)
        weighed = method.weigh(outputs, pseudo, context).unlabeled
    assert weighed.cls_weights is outputs.unlabeled.cls_weights
    transform = core.student.roi_heads.box_predictor.box2box_transform
    first, checked = 0, 0
    for image, roi in enumerate(weighed.rois):
        deltas = weighed.predictions.deltas[first : first + len(roi)]
        weights = weighed.reg_weights[first : first + len(roi)]
        first += len(roi)
        groups = {}
        for i in (roi.gt_classes < 3).nonzero().flatten().tolist():
            own = deltas[i].view(3, 4)[int(roi.gt_classes[i])][None]
            box = transform.apply_deltas(own, roi.proposal_boxes.tensor[i : i + 1])
            iou = pairwise_iou(Boxes(box), roi.gt_boxes[i])[0, 0].item()
            groups.setdefault(tuple(roi.gt_boxes.tensor[i].tolist()), []).append((i, iou))
        for rows in groups.values():
            mean = sum(iou for _, iou in rows) / len(rows)
            for i, _ in rows:
                assert float(weights[i].detach()) == pytest.approx(mean, abs=1e-5)
            checked += len(rows) > 1
    assert checked and not weighed.reg_weights.requires_grad


def test_second_view_learns_the_same_rois_and_the_rpn() -> None:
    core = build()
    method = core.methods["PseCo"]
    with EventStorage(0):
        pseudo, context = step(core, [[0.9, 0.8], []])
        outputs = method.weigh(run_student(core, pseudo, context), pseudo, context)
        losses = method.losses(outputs, pseudo, context)
        names = ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"]
        assert sorted(losses) == sorted(f"{name}_pseco" for name in names)
        assert all(torch.isfinite(loss) and loss.item() > 0 for loss in losses.values())
        # Were the second view's maps the main ones, the RoI losses would be lambda_u times the main
        # branch's.
        same = method.losses(_with_main_maps(outputs), pseudo, context)
    main = core._detection_losses(outputs.unlabeled)
    for name in ("loss_cls", "loss_box_reg"):
        torch.testing.assert_close(same[f"{name}_pseco"], 2.0 * main[name], rtol=1e-4, atol=1e-6)
    images = outputs.extra[HALF_SIZE].groups[0].image_sizes
    assert images == [(32, 32)] * 2


def _with_main_maps(outputs: Outputs) -> Outputs:
    """The second view's maps such that `align_levels` gives back the main branch's."""
    group = outputs.unlabeled.maps.groups[0]
    moved = {f"p{int(name[1]) - 1}": maps for name, maps in group.features.items()}
    moved["p2"] = group.features["p3"]
    features = {**moved, "p1": group.features["p2"]}
    maps = replace(outputs.unlabeled.maps, groups=[replace(group, features=features)])
    return replace(outputs, extra={HALF_SIZE: maps})


def test_without_pseudo_labels_and_in_burn_in() -> None:
    core = build()
    method = core.methods["PseCo"]
    with EventStorage(0):
        pseudo, context = step(core, [[0.1], []])
        outputs = method.weigh(run_student(core, pseudo, context), pseudo, context)
        losses = method.losses(outputs, pseudo, context)
        burn_in = replace(outputs, unlabeled=None)
        idle = method.losses(burn_in, None, context)["loss_cls_pseco"]
        idle.backward(retain_graph=True)
        backbone = list(core.student.backbone.parameters())
        assert idle.item() == 0.0 and all(parameter.grad is not None for parameter in backbone)
        assert method.weigh(burn_in, None, context) is burn_in
    assert (outputs.unlabeled.labels == 3).all() and losses["loss_box_reg_pseco"].item() == 0.0
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total) and F.relu(total) > 0


@pytest.mark.parametrize(
    "key, value", [("SCORE_THRESHOLD", 1.5), ("CANDIDATE_IOU", -0.1), ("TOP_CANDIDATES", 0)]
)
def test_bad_keys_are_named(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"SSOD.PSECO.{key}"):
        build(f"SSOD.PSECO.{key}", value)


def test_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "metrics.json").write_text("")
    assert PseCo.report_section(load_runs([str(tmp_path)])[0]) is None
    (tmp_path / "metrics.json").write_text('{"iteration": 1, "pseco/vote": 0.6}\n')
    section = PseCo.report_section(load_runs([str(tmp_path)])[0])
    assert section is not None and "consistency vote" in section.html
