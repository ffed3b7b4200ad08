"""SSD in the training step: its losses are torchvision's, times weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torchvision.models.detection import ssd300_vgg16

from runs import SSD, state_of, train
from ssod.detectors.registry import build_adapter
from ssod.detectors.ssd import SSDDetector
from ssod.errors import UserError
from ssod.structures import View, Views
from tiny import labels, make_sample, tiny_cfg, view, with_squares


def ssd_cfg(*pairs: Any) -> Any:
    cfg = tiny_cfg()
    cfg.merge_from_list([*SSD, *pairs])
    return cfg


def build() -> Any:
    torch.manual_seed(0)
    cfg = ssd_cfg()
    student = build_model(cfg)
    return student, build_adapter(cfg, student)


def losses_of(adapter: Any, own: View) -> Any:
    return adapter.losses(adapter.run(Views(own)).labeled)


def test_losses_with_weight_1_are_torchvisions() -> None:
    """Also with an image without labels, and images that are squashed differently."""
    student, adapter = build()
    assert isinstance(adapter, SSDDetector)
    own = view([labels(0, size=(64, 96)), labels(1, 0), labels(2, size=(80, 64))])
    found = losses_of(adapter, own)
    expected = student([{"image": i, "instances": t} for i, t in zip(own.images, own.targets)])
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert loss > 0 and found[name].item() == pytest.approx(loss.item(), rel=1e-6)


def test_each_stream_has_its_own_losses() -> None:
    _, adapter = build()
    first, second = view([labels(0)]), view([labels(1), labels(2)])
    both = adapter.run(Views(first, second))
    for part, own in ((both.labeled, first), (both.unlabeled, second)):
        for name, loss in losses_of(adapter, own).items():
            assert adapter.losses(part)[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_labels_have_separate_weights() -> None:
    _, adapter = build()
    whole = losses_of(adapter, view([labels(0)]))
    no_boxes = losses_of(adapter, view([labels(0, roi_reg_weight=0.0)]))
    assert no_boxes["loss_box_reg"] == 0 and no_boxes["loss_cls"] == whole["loss_cls"]
    outputs = adapter.run(Views(view([labels(0, roi_cls_weight=0.25)]))).labeled
    own = outputs.label_index >= 0
    # Three background boxes are mined for each foreground box, and they weigh 1.
    assert outputs.cls_weights[own].unique().tolist() == [0.25]
    assert outputs.cls_weights[~own].unique().tolist() == [1.0]
    assert int((~own).sum()) == 3 * int(own.sum()) == 3 * outputs.positives
    doubled = losses_of(adapter, view([labels(0, roi_reg_weight=2.0)]))
    assert doubled["loss_box_reg"].item() == pytest.approx(2 * whole["loss_box_reg"].item())


def test_no_label_gives_no_loss_but_every_gradient() -> None:
    student, adapter = build()
    losses = losses_of(adapter, view([labels(0, 0)]))
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in student.ssd.head.parameters())


def test_a_stream_without_images() -> None:
    _, adapter = build()
    outputs = adapter.run(Views(View([], []), view([labels(0)])))
    assert (
        len(outputs.labeled.cls_weights) == 0 and adapter.losses(outputs.unlabeled)["loss_cls"] > 0
    )


def test_detections_are_the_eval_forwards() -> None:
    student, adapter = build()
    student.eval()
    image = make_sample(0, True, (64, 96)).weak
    (found,) = adapter.detect(student, [image], 0.05).detections
    assert found.image_size == (64, 96) and student.ssd.score_thresh == 0.01
    assert len(found) and (found.scores > 0.05).all()
    (again,) = student([{"image": image, "height": 128, "width": 192}])
    again = again["instances"]
    kept = again[again.scores > 0.05]
    assert torch.allclose(kept.pred_boxes.tensor, 2 * found.pred_boxes.tensor, atol=1e-3)
    assert kept.pred_classes.tolist() == found.pred_classes.tolist()
    assert int(found.pred_classes.max()) <= 2 and int(found.pred_classes.min()) >= 0


def test_weights_of_torchvision_have_our_names() -> None:
    model = build_model(ssd_cfg("MODEL.SSD.NAME", "ssd300_vgg16"))
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4).state_dict()
    renamed = model.rename_weights(theirs)
    assert set(renamed) == set(model.state_dict())
    vgg = {"features.0.weight": torch.zeros(1), "features.28.bias": torch.ones(1)}
    found = model.rename_weights({**vgg, "classifier.0.weight": torch.zeros(1)})
    # conv1_1, and conv5_3, which follows the fourth pooling.
    assert {"ssd.backbone.features.0.weight", "ssd.backbone.extra.0.5.bias"} < set(found)
    assert set(found) - {"classifier.0.weight"} <= set(model.state_dict())


@pytest.mark.parametrize(
    "pairs, message",
    [
        (("MODEL.SSD.NAME", "ssd512"), "use ssd300_vgg16 or"),
        (("MODEL.SSD.IN_FEATURES", ("p9", "p3", "p4")), "'p9'"),
        (("MODEL.SSD.ASPECT_RATIOS", ((2,),)), "one list a level"),
        (("MODEL.SSD.SCALES", (0.9, 0.2)), "MODEL.SSD.SCALES"),
    ],
)
def test_wrong_keys_are_one_line(pairs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_model(ssd_cfg(*pairs))
    assert "\n" not in str(error.value)


def test_masks_are_refused() -> None:
    cfg = ssd_cfg("MODEL.MASK_ON", True)
    with pytest.raises(UserError, match="boxes alone"):
        build_adapter(cfg, build_model(ssd_cfg()))


@pytest.mark.trains
@pytest.mark.parametrize("methods", [("ScoreThreshold", "PseudoBoxRegression", "CropBank")])
def test_run_resumes_to_the_bit(squares: Path, tmp_path: Path, methods: Any) -> None:
    def cfg_in(folder: str) -> Any:
        cfg = with_squares(ssd_cfg(), squares, tmp_path / folder, methods)
        cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", 0.1, "SOLVER.CHECKPOINT_PERIOD", 3])
        return cfg

    whole = state_of(train(cfg_in("whole")))
    train(cfg_in("parts"), until=3)
    resumed = state_of(train(cfg_in("parts"), resume=True))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_class_weights_by_gradients(squares: Path, tmp_path: Path) -> None:
    """GradientReweighting works on any softmax with background."""
    methods = ("ScoreThreshold", "GradientReweighting")
    cfg = with_squares(ssd_cfg(), squares, tmp_path, methods)
    cfg.merge_from_list(["SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS", 1, "SSOD.SCORE_THRESHOLD", 0.1])
    cfg.SSOD.GRADIENT_REWEIGHTING.LR = 0.2
    with EventStorage():
        trainer = train(cfg)
    assert float(trainer.core.methods["GradientReweighting"].balance.imbalance()) > 0
