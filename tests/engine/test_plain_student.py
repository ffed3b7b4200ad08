"""RetinaNet offline: supervised, and on stored pseudo-labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import toy_method  # noqa: F401  (registers Toy)
from runs import RETINANET, state_of, train, with_stored_labels
from ssod.detectors.loss_only import LossOnlyModel
from ssod.detectors.rcnn.driver import RCNNDriver
from ssod.engine.plain_student import PlainTeacherStudent, build_core
from ssod.engine.teacher_student import TeacherStudent
from ssod.engine.trainer import evaluate_checkpoint
from ssod.errors import UserError
from ssod.methods import build_methods
from ssod.structures import SSODBatch
from ssod.tools.export import export
from tiny import make_sample, tiny_cfg, with_squares

METHODS = ("ScoreThreshold", "PseudoBoxRegression")


def retina_cfg(methods: tuple[str, ...] = METHODS) -> CfgNode:
    cfg = tiny_cfg()
    cfg.merge_from_list(
        [
            *RETINANET,
            *("SSOD.METHODS", methods),
            *("SSOD.PSEUDO_LABELS", "stored.json" if methods else ""),
        ]
    )
    return cfg


def core_of(cfg: CfgNode) -> TeacherStudent:
    return build_core(cfg, build_model(cfg), build_methods(cfg))


def stored_sample(index: int, scores: list[float]) -> Any:
    sample = make_sample(index, True)
    found = sample.instances
    assert found is not None
    found.pred_boxes, found.pred_classes = found.gt_boxes, found.gt_classes
    found = found[:1].cat([found[:1]] * len(scores)) if scores else found[:0]
    found.scores = torch.tensor(scores)
    sample.stored, sample.instances = found, None
    return sample


def batch(scores: list[float]) -> SSODBatch:
    return SSODBatch([make_sample(1, True), make_sample(2, True)], [stored_sample(3, scores)])


def test_supported_models_keep_the_full_step() -> None:
    cfg = tiny_cfg()
    assert type(core_of(cfg)) is TeacherStudent and type(core_of(cfg).detector) is RCNNDriver
    plain = core_of(retina_cfg())
    assert type(plain) is PlainTeacherStudent and type(plain.detector) is LossOnlyModel
    # The driver only calls the student, so a checkpoint has no second copy of it.
    assert {key.split(".")[0] for key in plain.state_dict()} == {"student", "teacher"}
    assert list(plain.checkpointables()) == ["normalizer"] and not core_of(cfg).checkpointables()
    assert type(core_of(retina_cfg(()))) is PlainTeacherStudent
    online = retina_cfg(("ScoreThreshold",))
    online.SSOD.PSEUDO_LABELS = ""
    with pytest.raises(UserError, match="RetinaNet is not supported for online"):
        core_of(online)


@pytest.mark.parametrize(
    "methods, keys, message",
    [
        (("ScoreThreshold", "PseudoBoxRegression", "Toy"), {}, "Toy works on GeneralizedRCNN"),
        (("ScoreThreshold",), {}, "add PseudoBoxRegression"),
        (METHODS, {"ROI_CLS_LOSS": "focal"}, "ROI_CLS_LOSS"),
    ],
)
def test_what_needs_the_full_step_is_refused(
    methods: tuple[str, ...], keys: dict[str, Any], message: str
) -> None:
    cfg = retina_cfg(methods)
    for key, value in keys.items():
        cfg.SSOD[key] = value
    with pytest.raises(UserError, match=message) as error:
        core_of(cfg)
    assert "\n" not in str(error.value)


def test_losses_are_the_models_own() -> None:
    cfg = retina_cfg()
    cfg.SSOD.UNSUP_LOSS_WEIGHT = 3.0
    core = core_of(cfg)
    core.student.loss_normalizer = 10.0
    twin = build_model(retina_cfg())
    twin.load_state_dict(core.student.state_dict())
    twin.loss_normalizer = 10.0
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
    assert set(losses) == {
        "loss_cls",
        "loss_box_reg",
        "loss_cls_unlabeled",
        "loss_box_reg_unlabeled",
    }
    for name in ("loss_cls", "loss_box_reg"):
        assert torch.allclose(losses[name], expected[name])
        assert torch.allclose(losses[f"{name}_unlabeled"], 3.0 * pseudo[name])


def test_it_does_not_label_online() -> None:
    with EventStorage(), pytest.raises(UserError, match="RetinaNet does not label online"):
        core_of(retina_cfg())(SSODBatch([make_sample(1, True)], [make_sample(3, False)]))


def test_no_label_at_all_trains_on_background() -> None:
    core = core_of(retina_cfg())
    with EventStorage():
        losses = core(batch([]))
    assert losses["loss_box_reg_unlabeled"] == 0 and losses["loss_cls_unlabeled"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in core.student.parameters())
    assert all(p.grad is None for p in core.teacher.parameters())


def test_a_labelled_turn_keeps_the_last_pseudo_labels() -> None:
    """SSOD.ALTERNATE_STREAMS: hooks draw the last step that had some, as with a Faster R-CNN."""
    core = core_of(retina_cfg())
    whole = batch([0.9])
    with EventStorage():
        core(SSODBatch([], whole.unlabeled))
        pseudo = core.last_pseudo
        assert pseudo is not None
        core(SSODBatch(whole.labeled, []))
    assert core.last_pseudo is pseudo and core.last_batch.unlabeled


def run_cfg(root: Path, output: Path, methods: tuple[str, ...] = METHODS) -> CfgNode:
    cfg = with_squares(retina_cfg(methods), root, output, methods)
    return with_stored_labels(cfg, root, output) if methods else cfg


@pytest.mark.trains
def test_run_resume_evaluate_export(squares: Path, tmp_path: Path) -> None:
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
    assert again.core.student.loss_normalizer == whole.core.student.loss_normalizer != 100

    cfg.DATASETS.TEST = ("squares_test",)
    cfg.MODEL.WEIGHTS = str(tmp_path / "b/teacher_final.pth")
    assert "AP" in evaluate_checkpoint(cfg, None)["squares_test"]["bbox"]
    config, weights, classes = export(cfg, cfg.MODEL.WEIGHTS, str(tmp_path / "export"))
    plain = get_cfg()
    plain.merge_from_file(config)
    model = build_model(plain)
    model.load_state_dict(torch.load(weights)["model"])
    assert json.loads(Path(classes).read_text()) == ["red", "green", "blue"]


@pytest.mark.trains
def test_supervised_run(squares: Path, tmp_path: Path) -> None:
    trainer = train(run_cfg(squares, tmp_path, ()))
    assert isinstance(trainer.core, PlainTeacherStudent)
    assert trainer.core.last_pseudo is None
