"""RetinaNet and FCOS in the training step: their losses are Detectron2's, times weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.modeling.meta_arch.fcos import FCOS as PlainFCOS
from detectron2.utils.events import EventStorage

from runs import DENSE, digest, state_of, train
from ssod.detectors.base import Capability
from ssod.detectors.dense import FCOSDetector, RetinaNetDetector
from ssod.detectors.dense.centerness import centerness_targets
from ssod.detectors.registry import build_adapter
from ssod.structures import SSODBatch, View, Views
from steps import core_of
from tiny import labels, make_sample, tiny_cfg, view, with_squares

FAMILIES = sorted(DENSE)


def dense_cfg(family: str, *pairs: Any) -> Any:
    cfg = tiny_cfg()
    cfg.merge_from_list([*DENSE[family], *pairs])
    return cfg


def build(family: str, *pairs: Any) -> Any:
    """A student whose scores differ, and its adapter."""
    torch.manual_seed(0)
    cfg = dense_cfg(family, *pairs)
    student = build_model(cfg)
    torch.nn.init.normal_(student.head.cls_score.weight, std=0.5)
    return student, build_adapter(cfg, student)


def run(adapter: Any, labeled: View, unlabeled: Any = None) -> Any:
    with EventStorage():
        return adapter.run(Views(labeled, unlabeled))


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_with_weight_1_are_detectron2s(family: str) -> None:
    """Also with an image without labels, and images of two sizes."""
    student, adapter = build(family)
    own = view([labels(0, size=(64, 96)), labels(1, 0, size=(64, 96)), labels(2, size=(64, 96))])
    found = adapter.losses(run(adapter, own).labeled)
    moved = student.loss_normalizer
    del student.loss_normalizer
    with EventStorage():
        inputs = [{"image": i, "instances": t} for i, t in zip(own.images, own.targets)]
        expected = student(inputs)
    assert set(found) == set(expected) and student.loss_normalizer == moved
    for name, loss in expected.items():
        assert loss > 0 and found[name].item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_have_separate_weights(family: str) -> None:
    """A loss is linear in each weight, and only in its own."""
    names = [n for n in losses_of(family) if "cls" not in n]
    base = losses_of(family)
    heavier = losses_of(family, roi_cls_weight=3.0)
    lighter = losses_of(family, roi_cls_weight=0.0)
    (cls,) = set(base) - set(names)
    positive = base[cls] - lighter[cls]
    assert positive > 0 and heavier[cls] == pytest.approx(lighter[cls] + 3 * positive, rel=1e-4)
    half = losses_of(family, roi_reg_weight=0.5)
    for name in names:
        assert heavier[name] == base[name]
        assert half[name] == pytest.approx(0.5 * base[name], rel=1e-5)
        assert losses_of(family, roi_reg_weight=0.0)[name] == 0
    assert half[cls] == base[cls]


def losses_of(family: str, **weights: float) -> dict[str, float]:
    _, adapter = build(family)
    found = adapter.losses(run(adapter, view([labels(0, **weights), labels(1, **weights)])).labeled)
    return {name: loss.item() for name, loss in found.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_know_their_label(family: str) -> None:
    _, adapter = build(family)
    targets = [labels(3), labels(4, 0), labels(5)]
    outputs = run(adapter, view(targets)).labeled
    rows = outputs.rows
    assert len(outputs.foreground) > 0
    for row in outputs.foreground.tolist():
        target = targets[rows.image_index[row]]
        index = rows.label_index[row]
        assert rows.labels[row] == target.gt_classes[index] and rows.valid[row]
        assert torch.equal(outputs.gt_boxes[row], target.gt_boxes.tensor[index])
    rest = rows.label_index == -1
    assert (rows.labels[rest] == 3).all() and (rows.image_index[outputs.foreground] != 1).all()
    assert len(rows.logits) == len(rows.labels) == len(outputs.predictions.flat("deltas"))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_other_sizes_change_no_row(family: str) -> None:
    """Two passes give each image what a pass of its own gives."""
    student, adapter = build(family)
    both = view([labels(0), labels(1, size=(256, 192)), labels(2)])
    maps_of = run(adapter, both).labeled
    assert len(maps_of.predictions.groups) > 1
    for index, (image, target) in enumerate(zip(both.images, both.targets)):
        alone = run(adapter, View([image], [target])).labeled
        mine = maps_of.rows.image_index == index
        torch.testing.assert_close(maps_of.rows.logits[mine], alone.rows.logits)
        assert torch.equal(maps_of.rows.labels[mine], alone.rows.labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_detectron2s_down_to_the_floor(family: str) -> None:
    student, adapter = build(family)
    student.eval()
    before, floor = student.test_score_thresh, 0.004
    images = [make_sample(i, False, (64, 96)).weak for i in range(2)]
    found = adapter.detect(student, images, floor)
    assert student.test_score_thresh == before and found.maps.num_images == 2
    student.test_score_thresh = floor
    with torch.no_grad():
        expected = student([{"image": image} for image in images])
    for mine, theirs in zip(found.detections, expected):
        row = theirs["instances"]
        row = row[row.pred_boxes.nonempty(threshold=1e-2)]
        assert len(mine) and torch.equal(mine.pred_boxes.tensor, row.pred_boxes.tensor)
        assert torch.equal(mine.scores, row.scores)
    raw = found.predictions.groups[0].logits  # detecting has not changed the predictions
    assert raw.min() < 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unlabelled_stream_is_divided_by_the_labelled_ones_positives(family: str) -> None:
    """Missing pseudo-labels must not make the background's loss larger."""
    student, adapter = build(family)
    own, other = view([labels(0), labels(1)]), view([labels(2, 0)])
    outputs = run(adapter, own, other)
    count = int((outputs.labeled.rows.label_index >= 0).sum())
    expected = 0.9 * adapter.first_normalizer + 0.1 * count
    assert student.loss_normalizer == pytest.approx(expected)
    assert adapter.normalizer_of(outputs.labeled) == pytest.approx(expected)
    assert adapter.normalizer_of(outputs.unlabeled) == pytest.approx(expected / 2)
    losses = adapter.losses(outputs.unlabeled)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert sum(losses.values()) > 0  # all is background
    state = {name: item.state_dict() for name, item in adapter.checkpointables().items()}
    assert state == {"normalizer": {"loss_normalizer": student.loss_normalizer, "images": 2}}
    again, fresh = build(family)
    fresh.normalizer.load_state_dict({"loss_normalizer": 7.0})  # of a former version
    assert again.loss_normalizer == 7.0
    # A turn of the other stream (SSOD.ALTERNATE_STREAMS) counts nothing.
    run(adapter, View([], []), view([labels(0)]))
    assert student.loss_normalizer == pytest.approx(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_without_any_label(family: str) -> None:
    student, adapter = build(family)
    losses = adapter.losses(run(adapter, view([labels(0, 0)])).labeled)
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())


def test_a_model_with_losses_of_its_own_is_not_driven_by_parts() -> None:
    student, adapter = build("RetinaNet")
    assert RetinaNetDetector.serves(student) and not FCOSDetector.serves(student)
    kind = type(student)
    student.__class__ = type("Own", (kind,), {"losses": lambda self, *a: {}})
    assert not RetinaNetDetector.serves(student)
    assert Capability.DENSE in adapter.capabilities


def test_fcos_by_name_has_the_weights_of_detectron2s_class() -> None:
    student, _ = build("FCOS")
    plain = PlainFCOS(
        backbone=student.backbone,
        head=student.head,
        head_in_features=student.head_in_features,
        num_classes=3,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
    )
    assert isinstance(student, PlainFCOS)
    assert set(plain.state_dict()) == set(student.state_dict())


def test_centerness() -> None:
    anchors = torch.tensor([[1.0, 3.0, 3.0, 5.0], [3.0, 3.0, 5.0, 5.0]])  # centres (2,4), (4,4)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 2)
    found = centerness_targets(Box2BoxTransformLinear(), anchors, boxes)
    assert found.tolist() == pytest.approx([(2 / 6) ** 0.5, 1.0])


@pytest.mark.trains
@pytest.mark.parametrize("family", FAMILIES)
def test_online_run_resumes_to_the_bit(family: str, squares: Path, tmp_path: Path) -> None:
    def cfg_of(folder: Path) -> Any:
        cfg = dense_cfg(family, "SSOD.SCORE_THRESHOLD", 0.011, "SSOD.PSEUDO_SCORE_FLOOR", 0.005)
        return with_squares(cfg, squares, folder, ("ScoreThreshold", "PseudoBoxRegression"))

    whole = train(cfg_of(tmp_path / "a"))
    assert whole.core.last_pseudo is not None and whole.core.last_pseudo.instances
    cfg = cfg_of(tmp_path / "b")
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    train(cfg, until=4)
    again = train(cfg, resume=True)
    assert digest(state_of(again)) == digest(state_of(whole))
    assert again.core.student.loss_normalizer == whole.core.student.loss_normalizer
    names = set(whole.storage.histories())
    assert any(name.endswith("_unlabeled") for name in names)


def test_turns_of_the_streams(squares: Path) -> None:
    """A micro-batch may lack labelled images."""
    cfg = dense_cfg("FCOS")
    cfg.SSOD.METHODS = ("ScoreThreshold",)
    core = core_of(cfg)
    with EventStorage():
        losses = core(SSODBatch([], [make_sample(3, False)]))
        assert losses and all(name.endswith("_unlabeled") for name in losses)
        assert not any(
            n.endswith("_unlabeled") for n in core(SSODBatch([make_sample(1, True)], []))
        )


def test_weights_of_methods_reach_the_loss() -> None:
    _, adapter = build("FCOS")
    outputs = run(adapter, view([labels(0)])).labeled
    before = adapter.losses(outputs)["loss_fcos_cls"]
    rows = replace(outputs.rows, cls_weights=torch.zeros_like(outputs.rows.cls_weights))
    assert before > 0 and adapter.losses(replace(outputs, locations=rows))["loss_fcos_cls"] == 0


@pytest.mark.parametrize("family, key", [("RetinaNet", "RETINANET"), ("FCOS", "FCOS")])
def test_group_norm_in_the_head(family: str, key: str) -> None:
    student, _ = build(family, f"MODEL.{key}.NORM", "GN")
    norms = [m for m in student.head.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert norms and all((n.num_groups, n.num_channels) == (32, 32) for n in norms)
