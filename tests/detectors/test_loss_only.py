"""Any meta-architecture: supervised, on stored pseudo-labels, and with its own labels online."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import toy_method  # noqa: F401  (registers Toy)
from detections import stored_sample
from own_detector import OWN
from runs import state_of, train, with_stored_labels
from ssod.detectors.loss_only import LossOnlyModel
from ssod.detectors.rcnn import FasterRCNN
from ssod.detectors.registry import find_detector
from ssod.detectors.score_floor import lowered_scores
from ssod.engine.trainer import evaluate_checkpoint
from ssod.errors import UserError
from ssod.structures import SSODBatch
from steps import core_of
from tiny import make_sample, tiny_cfg, with_squares

METHODS = ("ScoreThreshold", "PseudoBoxRegression")


def own_cfg(methods: tuple[str, ...] = METHODS) -> CfgNode:
    cfg = tiny_cfg()
    cfg.merge_from_list(
        [
            *OWN,
            *("SSOD.METHODS", methods),
            *("SSOD.PSEUDO_LABELS", "stored.json" if methods else ""),
        ]
    )
    return cfg


def batch(scores: list[float]) -> SSODBatch:
    """Two labelled images, and an unlabelled one with the same stored box at each score."""
    own = [make_sample(1, True), make_sample(2, True)]
    return SSODBatch(own, [stored_sample(3, scores, same=True)])


def test_the_built_model_chooses_the_adapter() -> None:
    assert type(core_of(tiny_cfg()).detector) is FasterRCNN
    plain = core_of(own_cfg())
    assert type(plain.detector) is LossOnlyModel
    # The adapter only calls the student, so a checkpoint has no second copy of it.
    assert {key.split(".")[0] for key in plain.state_dict()} == {"student", "teacher"}
    assert list(plain.checkpointables()) == ["normalizer"]
    assert not core_of(tiny_cfg()).checkpointables()
    cfg = tiny_cfg()
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True  # losses that the Faster R-CNN's are not
    if hasattr(build_model(cfg).roi_heads.box_predictor, "use_sigmoid_ce"):
        assert find_detector(build_model(cfg)) is LossOnlyModel


@pytest.mark.parametrize(
    "methods, keys, message",
    [
        (
            ("ScoreThreshold", "PseudoBoxRegression", "Toy"),
            {},
            "Toy needs regions .* it runs on .*Faster R-CNN",
        ),
        (("ScoreThreshold",), {}, "add PseudoBoxRegression"),
        ((*METHODS, "CropBank"), {}, "SELECTIVE_SUPERVISION to False"),
        (
            (*METHODS, "MixUpMosaic"),
            {},
            "MixUpMosaic needs .*set SSOD.MIXUP_MOSAIC.MIXUP_PROB to 0",
        ),
        (METHODS, {"ROI_CLS_LOSS": "focal"}, "ROI_CLS_LOSS"),
        (METHODS, {"RPN_SCORE_THRESHOLD": 0.5}, "RPN_SCORE_THRESHOLD"),
    ],
)
def test_what_needs_the_full_step_is_refused(
    methods: tuple[str, ...], keys: dict[str, Any], message: str
) -> None:
    cfg = own_cfg(methods)
    for key, value in keys.items():
        cfg.SSOD[key] = value
    with pytest.raises(UserError, match=message) as error:
        core_of(cfg)
    assert "\n" not in str(error.value)


def test_losses_are_the_models_own() -> None:
    cfg = own_cfg()
    cfg.SSOD.UNSUP_LOSS_WEIGHT = 3.0
    core = core_of(cfg)
    twin = build_model(own_cfg())
    twin.load_state_dict(core.student.state_dict())
    data = batch([0.9, 0.69])
    with EventStorage():
        losses = core(data)
        labeled, unlabeled = data.labeled, data.unlabeled[0]
        inputs = [
            {"image": image, "instances": s.instances, "height": 64, "width": 64}
            for image, s in [(s.strong, s) for s in labeled] + [(s.weak, s) for s in labeled]
        ]
        expected = twin(inputs)
        assert unlabeled.stored is not None
        kept = unlabeled.stored[:1]  # 0.69 is below the threshold of 0.7
        kept.gt_boxes, kept.gt_classes = kept.pred_boxes, kept.pred_classes
        pseudo = twin([{"image": unlabeled.strong, "instances": kept, "height": 64, "width": 64}])
    names = {"loss_cls", "loss_box_reg"}
    assert set(losses) == names | {f"{name}_unlabeled" for name in names}
    for name in names:
        assert torch.allclose(losses[name], expected[name])
        assert torch.allclose(losses[f"{name}_unlabeled"], 3.0 * pseudo[name])


def test_the_eval_forward_labels_online() -> None:
    """Every detection above the floor is a label, in the pixels of the view."""
    cfg = own_cfg()
    cfg.merge_from_list(["SSOD.PSEUDO_LABELS", "", "SSOD.PSEUDO_SCORE_FLOOR", 0.004])
    core, sample = core_of(cfg), make_sample(3, False, (48, 64))
    twin = build_model(own_cfg()).eval()
    twin.load_state_dict(core.teacher.state_dict())
    assert twin.inner.test_score_thresh > 0.004
    twin.inner.test_score_thresh = 0.004
    with torch.no_grad():
        expected = twin([{"image": sample.weak, "height": 48, "width": 64}])[0]["instances"]
    found = core.label([sample]).detections[0]
    assert found.image_size == (48, 64) and len(found) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores) and found.scores.min() > 0.004
    assert core.teacher.inner.test_score_thresh > 0.004  # as it was
    with EventStorage():
        losses = core(SSODBatch([make_sample(1, True)], [sample]))
    assert "loss_cls_unlabeled" in losses


def test_only_higher_thresholds_are_lowered_and_they_come_back() -> None:
    model = torch.nn.Module()
    model.score_thresh, model.test_score_thresh = 0.5, 0.01  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError), lowered_scores(model, 0.05):
        assert (model.score_thresh, model.test_score_thresh) == (0.05, 0.01)
        raise ZeroDivisionError
    assert (model.score_thresh, model.test_score_thresh) == (0.5, 0.01)


def test_a_model_that_wants_more_than_boxes_is_refused_in_one_line() -> None:
    core = core_of(own_cfg())

    def forward(inputs: Any) -> Any:
        return [image["sem_seg"] for image in inputs]

    core.student.forward = forward
    with EventStorage(), pytest.raises(UserError, match="'sem_seg'.*images, boxes and masks only"):
        core(batch([]))

    core.teacher.forward = lambda inputs: [{"sem_seg": None} for _ in inputs]
    with pytest.raises(UserError, match="gives no instances"):
        core.label([make_sample(3, False)])


def test_no_label_at_all_trains_on_background() -> None:
    core = core_of(own_cfg())
    with EventStorage():
        losses = core(batch([]))
    assert losses["loss_box_reg_unlabeled"] == 0 and losses["loss_cls_unlabeled"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in core.student.parameters())
    assert all(p.grad is None for p in core.teacher.parameters())


def test_a_labelled_turn_keeps_the_last_pseudo_labels() -> None:
    """SSOD.ALTERNATE_STREAMS: hooks draw the last step that had some, as with a Faster R-CNN."""
    core = core_of(own_cfg())
    whole = batch([0.9])
    with EventStorage():
        core(SSODBatch([], whole.unlabeled))
        pseudo = core.last_pseudo
        assert pseudo is not None
        core(SSODBatch(whole.labeled, []))
    assert core.last_pseudo is pseudo and core.last_batch.unlabeled


def run_cfg(root: Path, output: Path, methods: tuple[str, ...] = METHODS) -> CfgNode:
    cfg = with_squares(own_cfg(methods), root, output, methods)
    return with_stored_labels(cfg, root, output) if methods else cfg


@pytest.mark.trains
def test_run_resume_evaluate(squares: Path, tmp_path: Path) -> None:
    whole = train(run_cfg(squares, tmp_path / "a"))
    cfg = run_cfg(squares, tmp_path / "b")
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    train(cfg, until=3)
    again = train(cfg, resume=True)
    # Some kernels round by where memory starts, so the last bit may differ.
    resumed, expected = state_of(again), state_of(whole)
    assert resumed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=0.0, atol=1e-6)
    normalizers = [run.core.student.inner.loss_normalizer for run in (again, whole)]
    assert normalizers[0] == normalizers[1] != 100

    cfg.DATASETS.TEST = ("squares_test",)
    cfg.MODEL.WEIGHTS = str(tmp_path / "b/teacher_final.pth")
    assert "AP" in evaluate_checkpoint(cfg, None)["squares_test"]["bbox"]


@pytest.mark.trains
def test_supervised_run(squares: Path, tmp_path: Path) -> None:
    trainer = train(run_cfg(squares, tmp_path, ()))
    assert isinstance(trainer.core.detector, LossOnlyModel)
    assert trainer.core.last_pseudo is None
