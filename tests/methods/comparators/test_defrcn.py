"""DeFRCN's layers, trainings and calibration, with hand-computed numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from runs import train, with_squares
from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import TrainingData, build_methods
from ssod.methods.defrcn import (
    ChannelAffine,
    calibrated_scores,
    class_prototypes,
    scale_gradient,
)
from ssod.methods.defrcn.calibration import CalibratedDetector, ImageFeatures
from ssod.structures import SSODBatch
from steps import batch, cfg_with, core_of
from tiny import CLASSES, make_sample, tiny_cfg

HEADS = ("MODEL.RPN.HEAD_NAME", "DecoupledRPNHead", "MODEL.ROI_HEADS.NAME", "DecoupledROIHeads")


def config(*keys: Any) -> Any:
    own = ["SSOD.DEFRCN.PHASE", "tuning", "SSOD.SCORE_THRESHOLD", 0.0]
    return cfg_with(("ScoreThreshold", "DeFRCN"), *HEADS, *own, *keys)


def build(*keys: Any) -> TeacherStudent:
    return core_of(config(*keys))


def test_scaled_gradient_and_affine_map_by_hand() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    (3 * scale_gradient(x, 0.25)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.75, 0.75]
    layer = ChannelAffine(2, 0.5)
    maps = torch.ones(1, 2, 1, 2, requires_grad=True)
    assert torch.equal(layer([maps])[0], maps)  # the identity at first
    layer.weight.data.copy_(torch.tensor([2.0, 3.0]))
    layer.bias.data.copy_(torch.tensor([0.0, -1.0]))
    (found,) = layer([maps])
    assert found.flatten().tolist() == [2.0, 2.0, 2.0, 2.0]
    found.sum().backward()
    assert maps.grad is not None and maps.grad.flatten().tolist() == [1.0, 1.0, 1.5, 1.5]


@pytest.mark.parametrize("rpn, roi", [(0.0, 0.0), (0.0, 0.5), (1.0, 0.0)])
def test_backbone_gets_the_part_of_each_branch(storage: Any, rpn: float, roi: float) -> None:
    core = build("SSOD.DEFRCN.RPN_GRADIENT", rpn, "SSOD.DEFRCN.TUNING_ROI_GRADIENT", roi)
    losses = core(batch(1, 0))
    branch = {n: loss for n, loss in losses.items() if n.startswith("loss_rpn") == (rpn > 0)}
    sum(branch.values()).backward(retain_graph=True)
    backbone = core.student.backbone.bottom_up.stem.weight.grad
    assert (backbone is not None and bool(backbone.abs().sum() > 0)) == (rpn + roi > 0)
    # The heads and their affine maps learn whatever the backbone gets.
    for module in (core.student.proposal_generator.rpn_head, core.student.roi_heads.box_pooler):
        module.zero_grad()
    sum(losses.values()).backward()
    head, pooler = core.student.proposal_generator.rpn_head, core.student.roi_heads.box_pooler
    assert head.affine.weight.grad.abs().sum() > 0 and pooler.affine.bias.grad.abs().sum() > 0


def test_tuning_freezes_the_box_head_and_resumes_from_base_weights(storage: Any) -> None:
    core = build()
    assert not any(p.requires_grad for p in core.student.roi_heads.box_head.parameters())
    assert core.student.roi_heads.box_pooler.affine.gradient_scale == 0.01
    cfg = config()
    build_model(cfg).load_state_dict(core.student.state_dict())


def test_base_training_leaves_minority_labels_out(storage: Any, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
        "annotations": [],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
        "info": {"ssod_split": {"minority": ["green"]}},
    }
    path = tmp_path / "labeled.json"
    path.write_text(json.dumps(content))
    cfg = config("SSOD.DEFRCN.PHASE", "base")
    cfg.DATASETS.TRAIN = ("base_labeled",)
    cfg.SSOD.DATASETS.base_labeled = type(cfg)({"FORMAT": "coco", "ANNOTATIONS": str(path)})
    methods = build_methods(cfg)
    methods["DeFRCN"].setup(TrainingData([], [], CLASSES))
    core = TeacherStudent.from_config(cfg, build_model(cfg), methods)
    assert core.student.roi_heads.box_pooler.affine.gradient_scale == 0.75
    assert all(p.requires_grad for p in core.student.roi_heads.box_head.parameters())
    samples = [make_sample(i, True) for i in range(6)]
    classes = torch.cat([s.instances.gt_classes for s in samples if s.instances is not None])
    views = core.student_views(SSODBatch(samples, []), None, core.context(SSODBatch(samples, [])))
    kept = torch.cat([t.gt_classes for t in views.labeled.targets])
    assert (classes == 1).any() and not (kept == 1).any()
    assert len(kept) == 2 * int((classes != 1).sum())  # weak and strong views
    assert torch.isfinite(sum(core(SSODBatch(samples, [])).values()))


def test_wrong_keys_heads_and_data_are_one_line(tmp_path: Path) -> None:
    for key, value in (("PHASE", "'novel'"), ("RPN_GRADIENT", 1.5), ("TUNING_ROI_GRADIENT", -0.5)):
        with pytest.raises(UserError, match=f"SSOD.DEFRCN.{key} is .*: use"):
            build(f"SSOD.DEFRCN.{key}", value)
    with pytest.raises(UserError, match="set MODEL.RPN.HEAD_NAME to DecoupledRPNHead"):
        build("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    with pytest.raises(UserError, match="make_splits --minority"):
        build_methods(config("SSOD.DEFRCN.PHASE", "base"))["DeFRCN"].setup(
            TrainingData([], [], CLASSES)
        )


def test_prototypes_and_scores_by_hand() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    prototypes, known = class_prototypes(features, torch.tensor([0, 0, 2]), 3)
    assert prototypes.tolist() == [[1.0, 1.0], [0.0, 0.0], [5.0, 5.0]]
    assert known.tolist() == [True, False, True]
    found = calibrated_scores(
        torch.tensor([0.4, 0.4, 0.05, 0.4]),
        torch.tensor([0, 1, 0, 2]),
        torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [0.0, -1.0]]),
        prototypes,
        torch.tensor([True, True, False]) & known,
    )
    # cos 45 degrees; no prototype; too low a score; a majority class.
    assert found.tolist() == pytest.approx([0.2 + 0.5 * 0.5**0.5, 0.4, 0.05, 0.4])
    empty = torch.zeros(0)
    assert calibrated_scores(empty, empty.long(), features[:0], prototypes, known).shape == (0,)


@pytest.mark.trains
def test_calibrated_detector_reads_the_images_boxes(squares: Path) -> None:
    extract = ImageFeatures(build_model(tiny_cfg()), "BGR", (64, 64))
    record = {"file_name": str(squares / "test" / "000.png"), "height": 64, "width": 64}
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0], [20.0, 10.0, 60.0, 50.0]])
    features = extract(record, boxes)
    assert features.shape == (2, 32)
    # A shortest edge of 128 doubles the boxes with the image: they show the same.
    assert ImageFeatures(extract.detector, "BGR", (128, 128))(record, boxes).shape == (2, 32)

    def detector(inputs: Any) -> Any:
        found = Instances((64, 64), pred_boxes=Boxes(boxes), scores=torch.tensor([0.5, 0.5]))
        found.pred_classes = torch.tensor([0, 1])
        return [{"instances": found}]

    calibrated = CalibratedDetector(
        torch.nn.Identity(),
        extract,
        features.repeat(2, 1)[:3],
        torch.tensor([True, False, True]),
        0.5,
        0.05,
    )
    calibrated.model.forward = detector  # type: ignore[method-assign]
    (output,) = calibrated([record])
    assert output["instances"].scores.tolist() == pytest.approx([0.75, 0.5])


@pytest.mark.trains
def test_calibration_command(squares: Path, tmp_path: Path) -> None:
    from ssod.tools import calibrate

    content = json.loads((squares / "labeled.json").read_text())
    content["info"] = {"ssod_split": {"minority": ["blue"]}}
    (tmp_path / "groups.json").write_text(json.dumps(content))
    cfg = with_squares(config(), squares, tmp_path / "out", ("ScoreThreshold", "DeFRCN"))
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.SSOD.DATASETS.squares_test.GROUPS = str(tmp_path / "groups.json")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS = 2, 1
    trainer = train(cfg)
    assert trainer.max_iter == 2
    plain = tiny_cfg()
    plain.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    torch.save({"model": build_model(plain).state_dict()}, plain.MODEL.WEIGHTS)
    (tmp_path / "plain.yaml").write_text(plain.dump())
    (tmp_path / "config.yaml").write_text(cfg.dump())
    command = ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "out")]
    calibrate.main([*command, "--imagenet-config", str(tmp_path / "plain.yaml")])
    found = json.loads((tmp_path / "out" / "calibrated.json").read_text())
    assert "AP-minority" in found["plain"]["squares_test"]["bbox"]
    assert set(found) == {"plain", "calibrated"}
    with pytest.raises(UserError, match="has no MODEL.WEIGHTS: give --imagenet-config"):
        calibrate.main([*command, "--imagenet-config", str(tmp_path / "config.yaml")])
