"""One training step, phase by phase, without data loading."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

import toy_method  # noqa: F401  (registers Toy)
from detections import detections
from ssod.detectors.rcnn.roi_heads import BoxPredictions, detect
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.structures import PseudoLabels, SSODBatch
from steps import batch, cfg_with, core_of, teacher_finds
from tiny import make_sample, tiny_cfg


def build(
    methods: tuple[str, ...] = ("ScoreThreshold",), norm: str = "GN", **keys: object
) -> TeacherStudent:
    own = [word for key, value in keys.items() for word in (f"SSOD.{key}", value)]
    return core_of(cfg_with(methods, *own, norm=norm))


def fake_labels(core: TeacherStudent, scores: list[float]) -> None:
    """Makes the teacher detect one box of class 1 a score in each image."""
    teacher_finds(core, [detections(scores, [1] * len(scores))])


DETECTION_LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


def test_burn_in_step_has_labelled_losses_only(storage) -> None:
    core = build()
    losses = core(batch(unlabeled=0))
    assert set(losses) == DETECTION_LOSSES
    assert core.last_pseudo is None


def test_step_without_any_pseudo_label(storage) -> None:
    core = build()
    fake_labels(core, [])
    losses = core(batch())
    assert set(losses) == DETECTION_LOSSES | {f"{name}_unlabeled" for name in DETECTION_LOSSES}
    assert losses["loss_rpn_loc_unlabeled"] == 0 and losses["loss_box_reg_unlabeled"] == 0
    assert losses["loss_cls_unlabeled"] > 0  # everything is background
    sum(losses.values()).backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in core.student.parameters()
    )
    assert all(p.grad is None for p in core.teacher.parameters())


def test_threshold_includes_its_value_and_boxes_do_not_regress(storage) -> None:
    core = build()
    fake_labels(core, [0.71, 0.7, 0.69])
    losses = core(batch())
    assert core.last_pseudo is not None
    assert [row.selected.tolist() for row in core.last_pseudo.instances] == [
        [True, True, False]
    ] * 2
    assert losses["loss_rpn_loc_unlabeled"] == 0 and losses["loss_box_reg_unlabeled"] == 0
    assert storage.latest()["pseudo/boxes_per_image"][0] == 2
    assert storage.latest()["pseudo/candidates_per_image"][0] == 3


def test_pseudo_box_regression_switches_both_on(storage) -> None:
    core = build(("ScoreThreshold", "PseudoBoxRegression"))
    fake_labels(core, [0.9])
    losses = core(batch())
    assert losses["loss_rpn_loc_unlabeled"] > 0 and losses["loss_box_reg_unlabeled"] > 0


def test_labels_without_area_do_not_reach_training(storage) -> None:
    """Clipped to nothing by the border, such a box would match every anchor and divide by its
    width.
    """
    core = build(("ScoreThreshold", "PseudoBoxRegression"))
    proposals = [Instances((64, 64))]
    proposals[0].proposal_boxes = Boxes(
        torch.tensor([[80.0, 8.0, 90.0, 40.0], [8.0, 8.0, 40.0, 40.0]])
    )
    logits = torch.tensor([[5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]])
    predictions = BoxPredictions(torch.zeros(2, 32), logits, torch.zeros(2, 12))
    (found,) = detect(core.teacher.roi_heads, proposals, predictions, 0.5)
    assert found.pred_classes.tolist() == [1]


def test_rows_without_weight_cannot_spoil_the_loss(storage) -> None:
    core = build()
    fake_labels(core, [0.9])
    context_label = core.label

    def flat(samples):
        outputs = context_label(samples)
        for row in outputs.detections:
            row.pred_boxes = Boxes(torch.tensor([[8.0, 8.0, 8.0, 40.0]]))  # no width: log 0
        return outputs

    core.label = flat  # type: ignore[method-assign]
    assert all(torch.isfinite(loss) for loss in core(batch()).values())


def test_lambda_scales_the_unlabelled_losses(storage) -> None:
    results = []
    for weight in (1.0, 4.0):
        torch.manual_seed(0)
        core = build(UNSUP_LOSS_WEIGHT=weight)
        fake_labels(core, [0.9])
        torch.manual_seed(1)
        results.append(core(batch()))
    for name, value in results[0].items():
        factor = 4.0 if name.endswith("unlabeled") else 1.0
        assert results[1][name].item() == pytest.approx(factor * value.item(), rel=1e-5)


def test_labelled_losses_have_a_weight_of_their_own(storage) -> None:
    found = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        core = build(SUP_LOSS_WEIGHT=weight)
        fake_labels(core, [0.9])
        torch.manual_seed(1)
        found.append({name: loss.item() for name, loss in core(batch()).items()})
    assert set(found[0]) >= DETECTION_LOSSES
    for name, loss in found[0].items():
        factor = 0.25 if name in DETECTION_LOSSES else 1.0
        assert found[1][name] == pytest.approx(factor * loss), name


def test_weak_view_of_labelled_images_can_be_left_out(storage) -> None:
    core = build(LABELED_WEAK_VIEW=False)
    views = core.student_views(batch(), None, None)  # type: ignore[arg-type]
    assert len(views.labeled.images) == 2
    core.labeled_weak_view = True
    assert len(core.student_views(batch(), None, None).labeled.images) == 4  # type: ignore[arg-type]


def test_images_of_different_sizes(storage) -> None:
    core = build()
    samples = [make_sample(0, True, (64, 128)), make_sample(1, True, (128, 64))]
    losses = core(SSODBatch(samples, [make_sample(2, False, (96, 64)), make_sample(3, False)]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())


def test_toy_method_uses_every_phase(storage) -> None:
    core = build(("Toy",))
    fake_labels(core, [0.5, 0.2])
    losses = core(batch())
    assert {"loss_toy_count", "loss_toy_embedding", "loss_toy_half"} <= set(losses)
    sum(losses.values()).backward()
    assert core.methods["Toy"].embedding.weight.grad is not None
    assert core.student.ssod_heads["Toy"].weight.grad.abs().sum() > 0
    assert core.methods["Toy"].seen.sum() == sum(
        2 * len(make_sample(i, True).instances) for i in range(2)
    )
    # The teacher has a copy of the head, and none of the student-only embedding.
    assert "ssod_heads.Toy.weight" in core.teacher.state_dict()


def test_idle_heads_get_a_zero_gradient_in_burn_in(storage) -> None:
    core = build(("Toy",))
    losses = core(batch(unlabeled=0))
    assert "loss_toy_embedding" not in losses
    sum(losses.values()).backward()
    assert core.methods["Toy"].embedding.weight.grad.abs().sum() == 0


def test_toy_weight_reaches_the_loss(storage) -> None:
    """All RoIs are background, so halving their weight halves the loss."""
    values, reference = [], build().student.state_dict()
    for methods in (("ScoreThreshold",), ("Toy",)):
        core = build(methods)
        fake_labels(core, [])
        core.student.load_state_dict(reference, strict=False)
        torch.manual_seed(1)
        values.append(core(batch())["loss_cls_unlabeled"].item())
    assert values[1] == pytest.approx(0.5 * values[0], rel=1e-5)


def test_refine_must_not_drop_rows(storage) -> None:
    core = build(("Toy",))
    fake_labels(core, [0.5])
    core.methods["Toy"].refine = lambda pseudo, context: PseudoLabels(
        [row[:0] for row in pseudo.instances]
    )
    with pytest.raises(RuntimeError, match="columns"):
        core(batch())


def test_teacher_is_frozen_and_in_eval_mode_with_live_batch_norm(storage) -> None:
    core = build(norm="BN")
    core.train()
    before = {k: v.clone() for k, v in core.teacher.state_dict().items()}
    student_mean = core.student.backbone.bottom_up.stem.norm.running_mean.clone()
    core(batch())
    assert not core.teacher.training and core.student.training
    assert all(torch.equal(v, before[k]) for k, v in core.teacher.state_dict().items())
    assert not torch.equal(core.student.backbone.bottom_up.stem.norm.running_mean, student_mean)


def test_live_batch_norm_sees_all_images_in_one_batch(storage) -> None:
    core = build(norm="BN")
    calls = []
    core.student.backbone.bottom_up.stem.register_forward_hook(lambda m, a, o: calls.append(len(o)))
    core(SSODBatch([make_sample(0, True, (64, 128))], [make_sample(3, False, (256, 64))]))
    assert calls == [3]


def test_extra_views_leave_running_statistics_alone(storage) -> None:
    core = build(("Toy",), norm="BN")
    fake_labels(core, [])
    momenta = []
    core.student.backbone.bottom_up.stem.register_forward_hook(
        lambda m, a, o: momenta.append(m.norm.momentum)
    )
    core(batch())
    assert momenta == [0.1, 0.0] and core.student.backbone.bottom_up.stem.norm.momentum == 0.1


def test_eval_mode_returns_the_teachers_detections(storage) -> None:
    core = build()
    core.eval()
    with torch.no_grad():
        found = core([{"image": make_sample(0, False).weak, "height": 64, "width": 64}])
    assert "instances" in found[0]


@pytest.mark.parametrize(
    "methods, message",
    [
        (("ScoreTreshold",), "does not exist"),
        (("ScoreThreshold", "ScoreThreshold"), "twice"),
        (("PseudoBoxRegression",), "chooses which pseudo-labels"),
    ],
)
def test_wrong_method_lists_are_one_line(methods: tuple[str, ...], message: str) -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = methods
    with pytest.raises(UserError, match=message) as error:
        build_methods(cfg)
    assert "\n" not in str(error.value)


def test_keypoints_are_refused() -> None:
    cfg: CfgNode = tiny_cfg()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(UserError, match="KEYPOINT_ON"):
        TeacherStudent.from_config(cfg, build_model(cfg), nn.ModuleDict())
