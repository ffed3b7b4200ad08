"""PIM and self-distillation in a step: the labels, RoIs and maps that they learn from."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from lsm_rig import BOX, FULL, LOSSES, OTHER, Rig, config, found_rows
from ssod.methods import InertPeriod


def test_branch_learns_what_the_main_branch_does_not() -> None:
    """A label between alpha and t: background to the main branch, foreground to PIM, which
    regresses it too.
    """
    rig = Rig(config(*FULL), [[(BOX, 1, 0.6)], [(OTHER, 2, 0.45)]])
    losses = rig.step()
    assert (rig.outputs.unlabeled.labels == 3).all()
    branch = rig.branch()
    foreground = [roi[roi.gt_classes < 3] for roi in branch.rois]
    assert len(foreground[0]) > 0 and len(foreground[1]) == 0  # 0.45 is below alpha
    assert set(foreground[0].gt_classes.tolist()) == {1}
    assert torch.equal(foreground[0].gt_boxes.tensor[0], torch.tensor(BOX))
    assert (foreground[0].gt_roi_reg_weight == 1).all()
    assert all(losses[name] > 0 for name in LOSSES)
    assert losses["loss_box_reg_unlabeled"] == 0
    assert rig.metrics["pim/mined_boxes"] == 1
    assert rig.metrics["pim/foreground_rois_per_image"] == len(foreground[0]) / 2
    assert rig.metrics["pim/distilled_rois_per_image"] == len(foreground[0]) / 2
    # The main branch's own count of RoIs is not overwritten by PIM's.
    assert rig.metrics["roi_head/num_fg_samples"] == pytest.approx(rig_main_foreground(rig))


def rig_main_foreground(rig: Rig) -> float:
    views = (rig.outputs.labeled, rig.outputs.unlabeled)
    counts = [int((roi.gt_classes < 3).sum()) for view in views for roi in view.rois]
    return float(np.mean(counts))


def test_sure_labels_take_part_in_pim_but_not_in_the_distillation() -> None:
    rig = Rig(config(*FULL), [[(BOX, 1, 0.9)], [(OTHER, 2, 0.7)]])
    losses = rig.step()
    assert losses["loss_box_reg_pim"] > 0 and losses["loss_self_distillation"] == 0
    assert rig.metrics["pim/mined_boxes"] == 0
    # Both reach the main branch, whose classifier gets them as Unbiased Teacher does.
    assert {1, 2} <= set(rig.outputs.unlabeled.labels.tolist())


def test_weights_multiply() -> None:
    """Eq. 3: lambda_u times the branch's weight, for PIM and for the distillation."""
    found = [[(BOX, 1, 0.6)], []]
    plain = Rig(config(*FULL), found).step(False)
    heavy = Rig(
        config(
            *FULL,
            UNSUP_LOSS_WEIGHT=3.0,
            PIM__LOSS_WEIGHT=1.0,
            SELF_DISTILLATION__LOSS_WEIGHT=2.0,
        ),
        found,
    ).step(False)
    for name, factor in zip(LOSSES, (6.0, 6.0, 6.0)):
        assert heavy[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", ["PIM", "SELF_DISTILLATION", "MLC"])
def test_a_loss_that_weighs_0_is_no_activity(name: str) -> None:
    methods = ("ScoreThreshold", "MLC") if name == "MLC" else FULL
    found = [[(BOX, 1, 0.9 if name == "MLC" else 0.6)], []]
    for weight in (1.0, 0.0):
        rig = Rig(config(*methods, **{f"{name}__LOSS_WEIGHT": weight}), found)
        rig.step(False)
        (kind,) = [m for m in rig.core.method_list if m.config_key == name]
        assert (float(rig.core.last_numbers[f"activity/{kind.name}"]) > 0) == (weight > 0)
    period = InertPeriod(steps=1, last_step=1, best_score=0.6, candidates=1.0, selected=0.0)
    assert f"SSOD.{name}.LOSS_WEIGHT or SSOD.UNSUP_LOSS_WEIGHT is 0" in kind.inert_reason(period)


def gradients(rig: Rig, names: Sequence[str]) -> Dict[str, bool]:
    """The parts that get a gradient from these losses alone."""
    losses = rig.step(False)
    sum(losses[name] for name in names).backward()
    student = rig.core.student
    predictor = student.roi_heads.box_predictor
    parts = {
        "aux": rig.core.methods["PIM"].classifier,
        "main": predictor.cls_score,
        "regressor": predictor.bbox_pred,
        "head": student.roi_heads.box_head,
        "backbone": student.backbone,
        "rpn": student.proposal_generator,
    }
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
    }


def test_who_learns_from_what() -> None:
    found = [[(BOX, 1, 0.6)], []]
    shared = {"regressor": True, "head": True, "backbone": True, "rpn": False}
    assert gradients(Rig(config(*FULL), found), LOSSES[:2]) == {
        **shared,
        "aux": True,
        "main": False,
    }
    # Neither side is detached, and nothing regresses.
    assert gradients(Rig(config(*FULL), found), LOSSES[2:]) == {
        **shared,
        "aux": True,
        "main": True,
        "regressor": False,
    }
    # The auxiliary classifier learns from PIM and the distillation alone.
    rig = Rig(config(*FULL), found)
    others = [name for name in rig.step(False) if name not in LOSSES and name != "loss_cls"]
    assert not gradients(rig, others)["aux"]


def test_distillation_compares_the_same_rois() -> None:
    """The loss is recomputed from the pooled features of exactly PIM's RoIs on the full-size
    maps.
    """
    rig = Rig(config(*FULL), [[(BOX, 1, 0.6), (OTHER, 0, 0.9)], [(OTHER, 2, 0.65)]])
    branches: List[Any] = []
    pim = rig.core.methods["PIM"]
    inner = pim._run
    pim._run = lambda *args: branches.append(inner(*args)) or branches[-1]  # type: ignore
    losses = rig.step(False)
    assert len(branches) == 1  # computed once, used by both methods
    branch = branches[0]
    heads = rig.core.student.roi_heads
    total, count, offset = 0.0, 0, 0
    assert branch.sampled == len(branch.scores) > 0
    for index, roi in enumerate(branch.rois):
        for row in range(len(roi)):
            score = float(roi.gt_scores[row])
            if roi.gt_classes[row] < 3 and 0.5 < score < 0.7:
                boxes = [Boxes(torch.zeros(0, 4)) for _ in branch.rois]
                boxes[index] = roi.proposal_boxes[row : row + 1]
                feature = rig.outputs.unlabeled.maps.box_features(heads, boxes)
                q = heads.box_predictor.cls_score(feature)[0].softmax(0)
                p = branch.predictions.logits[offset + row].softmax(0)
                total, count = total + (p * (p / q).log()).sum().item(), count + 1
        offset += len(roi)
    assert count > 0
    assert losses["loss_self_distillation"].item() == pytest.approx(
        total / branch.sampled, rel=1e-4
    )


@pytest.mark.parametrize("size", [64, 33, 3, 1])
@pytest.mark.parametrize("found", [[[], []], [[(BOX, 1, 0.3)], []], [[(BOX, 1, 0.6)], []]])
def test_nothing_to_learn_and_tiny_images(size: int, found: Any) -> None:
    """No label at all, none above alpha, none in one image; and images smaller than any stride."""
    rows = [[(tuple(min(v, size) for v in box), c, s) for box, c, s in own] for own in found]
    rows = [[row for row in own if row[0][2] > row[0][0]] for own in rows]
    rig = Rig(config(*FULL), rows, size)
    losses = rig.step()
    assert all(torch.isfinite(losses[name]) for name in LOSSES)
    if not any(row[2] > 0.5 for own in rows for row in own):
        assert losses["loss_box_reg_pim"] == 0 and losses["loss_self_distillation"] == 0
        assert rig.metrics["pim/mined_boxes"] == 0
    assert rig.core.methods["PIM"].classifier.weight.grad is not None
    for parameter in rig.core.student.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_burn_in_is_the_hosts() -> None:
    rig = Rig(config(*FULL), [])
    losses = rig.step()
    assert not set(LOSSES) & set(losses) and not any("pim" in name for name in rig.metrics)
    assert not rig.core.methods["PIM"].classifier.weight.grad.any()  # touched, for DDP


@pytest.mark.parametrize(
    "names, kept", [(("p2",), True), (("p3", "p4"), False), (("p2", "p3", "p4"), True)]
)
def test_rois_of_disabled_maps_are_dropped(names: Tuple[str, ...], kept: bool) -> None:
    """All RoIs of 64 x 64 images come from P2, hence from P2^d."""
    rig = Rig(config(*FULL, PIM__IN_FEATURES=names), [[(BOX, 1, 0.6)], []])
    losses = rig.step()
    assert all(bool(losses[name] > 0) == kept for name in LOSSES)
    assert (len(rig.branch().scores) > 0) == kept


def test_rois_of_disabled_maps_count_in_the_divisor() -> None:
    """Half of the RoIs are dropped. The others weigh as much as before, in every loss of the
    branch.
    """
    found = [[(BOX, 1, 0.6)], [(OTHER, 2, 0.65)]]
    branch_losses = []
    for enabled in ([True, True, True, True], [True, False, True, True]):
        rig = Rig(config(*FULL), found)
        pim = rig.core.methods["PIM"]
        pim.enabled = enabled
        branches: List[Any] = []
        inner = pim._run
        pim._run = lambda *args: branches.append(inner(*args)) or branches[-1]  # type: ignore
        # Every second RoI belongs to the second map.
        levels = lambda heads, names, boxes: torch.arange(sum(map(len, boxes))) % 2  # noqa: E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ssod.methods.lsm.branch.pooling_levels", levels)
            losses = rig.step(False)
        (branch,) = branches
        logits, scores = branch.predictions.logits, branch.scores
        labels = torch.cat([roi.gt_classes for roi in branch.rois])
        wanted = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        assert branch.sampled > len(scores) or all(enabled)
        # The weight of PIM is 0.5.
        found_loss = losses["loss_cls_pim"].item()
        assert found_loss == pytest.approx(0.5 * wanted.item() / branch.sampled, rel=1e-4)
        branch_losses.append((branch.sampled, len(scores)))
    (all_sampled, all_kept), (sampled, kept) = branch_losses
    assert all_sampled == all_kept == sampled and kept == sampled - sampled // 2


def test_one_forward_one_rpn_one_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student: one pass of the backbone for the main view and one for the half-size images;
    proposals once.
    """
    rig = Rig(config(*FULL), [[(BOX, 1, 0.6)], []])
    student, calls = rig.core.student, []
    for name in ("backbone", "proposal_generator.rpn_head"):
        module = student.get_submodule(name)
        module.register_forward_hook(lambda m, args, out, n=name: calls.append((n, args)))
    rpn = student.proposal_generator
    nms = rpn.predict_proposals
    rpn.predict_proposals = lambda *args: calls.append(("nms", args)) or nms(*args)
    losses = rig.step()
    assert losses["loss_self_distillation"] > 0
    names = [name for name, _ in calls]
    assert names == ["backbone", "proposal_generator.rpn_head", "nms", "backbone"]
    main, half = (args[0].shape for name, args in calls if name == "backbone")
    assert main == (6, 3, 64, 64) and half == (2, 3, 32, 32)
    # Sampled anew, but from the main branch's proposals and the labels themselves.
    known = [
        {tuple(box) for box in [*row.proposal_boxes.tensor.tolist(), BOX]}
        for row in rig.outputs.unlabeled.proposals
    ]
    for roi, boxes in zip(rig.branch().rois, known):
        assert len(roi) and {tuple(box) for box in roi.proposal_boxes.tensor.tolist()} <= boxes


def test_levels_are_dropped_row_by_row() -> None:
    from ssod.methods.lsm.branch import drop_levels

    rois = [found_rows([(BOX, 0, 0.1), (BOX, 1, 0.2)]), found_rows([(OTHER, 2, 0.3)])]
    found = drop_levels(rois, torch.tensor([0, 2, 1]), [True, False, True, False])
    assert [roi.pred_classes.tolist() for roi in found] == [[0, 1], []]
    found = drop_levels(rois, torch.tensor([0, 2, 1]), [False, True, False, False])
    assert [roi.pred_classes.tolist() for roi in found] == [[], [2]]


def test_order_of_the_methods_does_not_matter() -> None:
    found = [[(BOX, 1, 0.6)], []]
    one = Rig(config("ScoreThreshold", "PIM", "SelfDistillation"), found).step(False)
    other = Rig(config("SelfDistillation", "PIM", "ScoreThreshold"), found).step(False)
    for name in LOSSES:
        assert one[name].item() == pytest.approx(other[name].item(), rel=1e-5), name
