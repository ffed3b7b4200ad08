"""PIM, self-distillation and the comparators on the tiny detector: what they learn from, and what
nothing does to them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY, InertPeriod, Method, StepContext, build_methods
from ssod.methods.lsm.method import PIM
from ssod.methods.selection import main_threshold
from ssod.methods.shared.half_size import HALF_SIZE
from ssod.structures import PseudoLabels, SSODBatch, View
from tiny import make_sample, tiny_cfg

Row = Tuple[Sequence[float], int, float]


def config(*methods: str, **keys: Any) -> CfgNode:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = methods
    cfg.SSOD.UNSUP_LOSS_WEIGHT = 1.0
    for key, value in keys.items():
        cfg.merge_from_list([f"SSOD.{key.replace('__', '.')}", value])
    return cfg


def detections(rows: Sequence[Row], size: Tuple[int, int] = (64, 64)) -> Instances:
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor([row[0] for row in rows]).float().reshape(-1, 4))
    found.pred_classes = torch.tensor([row[1] for row in rows], dtype=torch.long)
    found.scores = torch.tensor([row[2] for row in rows]).float()
    return found


class Rig:
    """A TeacherStudent whose teacher finds what we say."""

    def __init__(self, cfg: CfgNode, found: Sequence[Sequence[Row]], size: int = 64) -> None:
        torch.manual_seed(0)
        self.core = TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))
        size2 = (size, size)
        label = self.core.label

        def wanted(samples: List[Any]) -> Any:
            outputs = label(samples)
            return replace(outputs, detections=[detections(rows, size2) for rows in found])

        self.core.label = wanted  # type: ignore[method-assign]
        unlabeled = [make_sample(9 + i, False, size2) for i in range(len(found))]
        # At least two: GroupNorm of 32 groups has nothing to average over one cell of one image.
        self.batch = SSODBatch([make_sample(1, True), make_sample(2, True)], unlabeled)
        self.outputs: Any = None
        self.context: Any = None
        run_student = self.core.run_student

        def remember(views: Any) -> Any:
            self.outputs = run_student(views)
            return self.outputs

        self.core.run_student = remember  # type: ignore[method-assign]

    def step(self, backward: bool = True) -> Dict[str, torch.Tensor]:
        torch.manual_seed(1)
        with EventStorage() as storage:
            losses = self.core(self.batch)
            self.metrics = {name: value for name, (value, _) in storage.latest().items()}
        if backward:
            sum(losses.values()).backward()
        return losses

    def branch(self) -> Any:
        """PIM's RoIs, computed once more."""
        context = StepContext(0, self.batch, self.core.student, self.core.teacher)
        context.methods = {m.name: m for m in self.core.method_list}
        return context.methods["PIM"].run(self.outputs, context)  # type: ignore[attr-defined]


BOX, OTHER = (10.0, 10, 34, 34), (40.0, 36, 60, 58)
LOSSES = ("loss_cls_pim", "loss_box_reg_pim", "loss_self_distillation")
FULL = ("ScoreThreshold", "PIM", "SelfDistillation")


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
    """Half of the RoIs are dropped: what is left weighs as much as before, in every loss of the
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

    rois = [detections([(BOX, 0, 0.1), (BOX, 1, 0.2)]), detections([(OTHER, 2, 0.3)])]
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


def test_pasted_labels_are_learned_and_hidden_ones_are_not() -> None:
    """The strong view's labels count, not the teacher's: a method may have pasted objects over
    them.
    """

    class Paste(Method):
        def views(self, views: Any, pseudo: Optional[PseudoLabels], context: StepContext) -> Any:
            row = PseudoLabels.from_detections([detections([(OTHER, 0, 1.0)]), detections([])])
            view = View(views.unlabeled.images, [], row)
            return replace(views, unlabeled=view)

    cfg = config(*FULL)
    rig = Rig(cfg, [[(BOX, 1, 0.6)], []])
    paste = Paste()
    paste.name = "Paste"
    rig.core.methods["Paste"] = paste
    losses = rig.step()
    labels = torch.cat([roi.gt_classes for roi in rig.branch().rois])
    assert set(labels.tolist()) == {0, 3}
    assert losses["loss_self_distillation"] == 0 and losses["loss_box_reg_pim"] > 0


def test_image_level_rejection_holds_for_pim() -> None:
    """A class that a method finds absent from an image is not mined there; pasted and selected rows
    stay.
    """

    class Images(Method):
        judges = True

        def present(self, context: StepContext) -> Optional[torch.Tensor]:
            return torch.tensor([[False, True, True]]) if self.judges else None

    pim = build_methods(config("ScoreThreshold", "PIM"))["PIM"]
    pseudo = PseudoLabels.from_detections(
        [detections([(BOX, 0, 0.6), (BOX, 1, 0.6), (BOX, 1, 0.4), (BOX, 0, 1.0)])]
    )
    pseudo = pseudo.select([torch.tensor([False, False, False, True])])
    context: Any = StepContext(0, SSODBatch([], []), None, None)  # type: ignore[arg-type]
    assert pim.masks(pseudo, context)[0].tolist() == [True, True, False, True]
    context.methods = {"Images": Images()}
    assert pim.masks(pseudo, context)[0].tolist() == [False, True, False, True]
    Images.judges = False
    assert pim.masks(pseudo, context)[0].tolist() == [True, True, False, True]


@pytest.mark.parametrize("host, key", [("SoftTeacher", "SOFT_TEACHER"), ("PseCo", "PSECO")])
def test_other_hosts_learn_through_pim_what_they_leave_out(host: str, key: str) -> None:
    keys = {f"{key}__SCORE_THRESHOLD": 0.7}
    found = [[(BOX, 1, 0.6), (OTHER, 2, 0.9)], []]
    rig = Rig(config(host, "PIM", "SelfDistillation", **keys), found)
    passes: List[Any] = []
    rig.core.student.backbone.register_forward_hook(lambda m, args, out: passes.append(args[0]))
    losses = rig.step()
    assert set(rig.outputs.unlabeled.labels.tolist()) == {2, 3}
    assert set(torch.cat([roi.gt_classes for roi in rig.branch().rois]).tolist()) == {1, 2, 3}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(losses[name] > 0 for name in LOSSES)
    # PseCo's second view and PIM's are the same images, which pass once.
    assert [len(images) for images in passes] == [6, 2] and set(rig.outputs.extra) == {HALF_SIZE}


def test_stored_labels_are_as_good_as_the_teachers() -> None:
    """STAC as host: the same labels give the same losses, without a teacher's forward."""
    found = [[(BOX, 1, 0.6), (OTHER, 2, 0.9)], [(OTHER, 0, 0.65)]]
    online = Rig(config(*FULL), found).step(False)
    rig = Rig(config(*FULL), found)
    samples = [
        replace(sample, stored=detections(rows)) for sample, rows in zip(rig.batch.unlabeled, found)
    ]
    rig.batch = SSODBatch(rig.batch.labeled, samples)
    rig.core.label = None  # type: ignore[assignment,method-assign]
    stored = rig.step(False)
    assert stored.keys() == online.keys() and set(LOSSES) < stored.keys()
    for name, loss in stored.items():
        assert loss.item() == online[name].item(), name


def test_a_map_for_the_half_size_images_alone_is_touched_in_burn_in() -> None:
    """The box head and the RPN from P3 on: P2 has no other use, and DDP wants its gradient."""
    cfg = config(*FULL)
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [48]]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    for found in ([], [[(BOX, 1, 0.6)], []]):
        rig = Rig(cfg, found)
        losses = rig.step()
        assert (losses["loss_cls_pim"] > 0) == bool(found)
        assert all(p.grad is not None for p in rig.core.student.backbone.parameters())
    p2 = rig.core.student.backbone.fpn_output2.weight
    assert p2.grad.any()  # its RoIs, small ones, come from P3


def test_mlc_is_the_main_branch_at_half_size() -> None:
    found = [[(BOX, 1, 0.9)], [(OTHER, 2, 0.6)]]
    rig = Rig(config("ScoreThreshold", "MLC", "PseudoBoxRegression"), found)
    losses = rig.step(False)
    assert not list(rig.core.methods.parameters())  # no classifier of its own
    assert losses["loss_box_reg_mlc"] > 0
    rig.core.zero_grad()
    (losses["loss_cls_mlc"] + losses["loss_box_reg_mlc"]).backward()
    assert rig.core.student.roi_heads.box_predictor.cls_score.weight.grad.any()
    context = StepContext(0, rig.batch, rig.core.student, rig.core.teacher)
    branch = rig.core.methods["MLC"].run(rig.outputs, context)  # type: ignore[operator]
    # Only the label that passes t: the second image has no foreground.
    assert [bool((roi.gt_classes < 3).any()) for roi in branch.rois] == [True, False]


def test_mlc_regresses_where_the_host_does() -> None:
    """Unbiased Teacher's boxes do not, and Soft Teacher's do where its teacher is steady."""
    found: List[List[Row]] = [[(BOX, 1, 0.95)], []]
    losses = Rig(config("ScoreThreshold", "MLC"), found).step(False)
    assert losses["loss_cls_mlc"] > 0 and losses["loss_box_reg_mlc"] == 0
    for steady in (True, False):
        keys = {"SOFT_TEACHER__MAX_DEVIATION": 1e6 if steady else 0.0}
        losses = Rig(config("SoftTeacher", "MLC", **keys), found).step(False)
        assert bool(losses["loss_box_reg_mlc"] > 0) == steady


def test_area_mining_counts_pixels_of_the_file() -> None:
    cfg = config("AreaMining", AREA_MINING__MIN_AREA=400.0)
    method = build_methods(cfg)["AreaMining"]
    big, small = (0.0, 0, 41, 40), (0.0, 0, 40, 40)  # 410 and 400 square pixels of the file
    rows = [(small, 0, 0.7), (small, 0, 0.69), (big, 0, 0.51), (big, 0, 0.5)]
    sample = make_sample(0, False)
    sample.geometry.matrix = np.array([[-2.0, 0, 64], [0, 2.0, 0]])  # twice the size, mirrored
    context: Any = StepContext(0, SSODBatch([], [sample]), None, None)  # type: ignore[arg-type]
    pseudo = PseudoLabels.from_detections([detections(rows)])
    found = method.refine(pseudo, context)  # type: ignore[operator]
    assert found.instances[0].selected.tolist() == [True, False, True, False]
    empty = PseudoLabels.from_detections([detections([])])
    assert method.refine(empty, context).instances[0].selected.tolist() == []


@pytest.mark.parametrize(
    "methods, keys, message",
    [
        (
            FULL,
            {"PIM__SCORE_THRESHOLD": 0.7},
            "SSOD.PIM.SCORE_THRESHOLD is 0.7.*SCORE_THRESHOLD is 0.7",
        ),
        (
            FULL,
            {"SCORE_THRESHOLD": 0.4},
            "SSOD.PIM.SCORE_THRESHOLD is 0.5.*SSOD.SCORE_THRESHOLD is 0.4",
        ),
        (FULL, {"PIM__SCORE_THRESHOLD": -0.1}, "must be the lower one"),
        (("ScoreThreshold", "SelfDistillation"), {}, "SelfDistillation needs PIM"),
        (("ScoreThreshold", "PIM", "MLC"), {}, "cannot be combined"),
        (("ScoreThreshold", "AreaMining"), {}, "cannot be combined"),
        (
            ("AreaMining",),
            {"AREA_MINING__LOW_THRESHOLD": 0.8},
            "SSOD.AREA_MINING.LOW_THRESHOLD is 0.8",
        ),
    ],
)
def test_wrong_configs_are_named_in_one_line(
    methods: Tuple[str, ...], keys: Dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_methods(config(*methods, **keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [(), ("p5",), ("p2", "res3")])
def test_unusable_levels_are_refused(names: Tuple[str, ...]) -> None:
    cfg = config(*FULL, PIM__IN_FEATURES=names)
    with pytest.raises(UserError, match="SSOD.PIM.IN_FEATURES is .*name some of p2, p3, p4"):
        TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))


def test_main_threshold_is_that_of_the_selecting_method() -> None:
    assert main_threshold(config(*FULL, SCORE_THRESHOLD=0.8)) == ("SSOD.SCORE_THRESHOLD", 0.8)
    assert main_threshold(config("AreaMining")) == ("SSOD.SCORE_THRESHOLD", 0.7)
    if "TwoStageFilter" in METHOD_REGISTRY:
        cfg = config("TwoStageFilter", "PIM", TWO_STAGE_FILTER__SCORE_THRESHOLD=0.9)
        assert main_threshold(cfg) == ("SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD", 0.9)
        pim = build_methods(cfg)["PIM"]
        assert isinstance(pim, PIM) and pim.main_threshold == 0.9
