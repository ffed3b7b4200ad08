"""The Method: which RoIs it touches, that nothing leaks into the detector, and its pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import List, Tuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ssod.engine.teacher_student import TeacherStudent
from ssod.errors import UserError
from ssod.methods import StepContext
from ssod.methods.multi_phase import background_weights, similarity_loss
from ssod.methods.multi_phase.heat_map import DrawWeights, WeightedImage, weight_map, weight_section
from ssod.plotting.run_data import load_runs
from ssod.structures import PseudoLabels, SSODBatch, View, Views, make_targets
from steps import cfg_with, core_of
from tiny import make_sample


def build(tmp_path: Path, *keys: object) -> TeacherStudent:
    methods = ("ScoreThreshold", "UncertainNegatives")
    return core_of(cfg_with(methods, "OUTPUT_DIR", str(tmp_path), *keys))


def targets(*boxes: List[float]) -> Instances:
    rows = torch.tensor(boxes).reshape(-1, 4)
    return make_targets((64, 64), rows, torch.zeros(len(rows), dtype=torch.int64))


def run(core: TeacherStudent) -> Tuple:
    """Outputs on one labelled image and two unlabelled ones, the second without pseudo-label."""
    samples = [make_sample(0, True)]
    images = [make_sample(i, False).strong for i in (5, 6)]
    own = [core._targets(sample.instances) for sample in samples]
    views = Views(
        View([sample.strong for sample in samples], own),
        View(images, [targets([10.0, 10, 40, 40], [30.0, 30, 60, 60]), targets()]),
    )
    context = StepContext(0, SSODBatch([], []), core.student, core.teacher)
    with EventStorage(0):
        return core.run_student(views), context


def test_weights_are_the_formula_of_each_image(tmp_path: Path) -> None:
    core = build(tmp_path)
    with EventStorage(0):
        outputs, context = run(core)
        method = core.methods["UncertainNegatives"]
        weighed = method.weigh(outputs, None, context)
    assert weighed.labeled is outputs.labeled
    before, after = outputs.unlabeled, weighed.unlabeled
    assert after.reg_weights is before.reg_weights and not after.cls_weights.requires_grad
    labels, images = before.labels, before.image_index
    assert (after.cls_weights[labels < 3] == 1).all() and (labels < 3).any()
    assert (after.cls_weights[images == 1] == 1).all()  # no positive in that image
    boxes = torch.cat([roi.proposal_boxes.tensor for roi in before.rois])
    embedded = method.embedding(before.predictions.features)
    rows, positive = (images == 0) & (labels == 3), (images == 0) & (labels < 3)
    wanted = background_weights(
        boxes[rows], embedded[rows], boxes[positive], embedded[positive], 0.25, 50.0, 20.0, 14.0
    )
    torch.testing.assert_close(after.cls_weights[rows], wanted)
    assert wanted.min() < 0.9


def test_mixed_precision_changes_nothing(tmp_path: Path) -> None:
    core = build(tmp_path)
    method = core.methods["UncertainNegatives"]
    outputs, context = run(core)
    found = []
    for enabled in (False, True):
        with EventStorage(0), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            weights = method.weigh(outputs, None, context).unlabeled.cls_weights
            found.append((weights, method.losses(outputs, None, context)["loss_similarity"]))
    (plain, loss), (mixed, mixed_loss) = found
    assert torch.equal(plain, mixed) and torch.equal(loss, mixed_loss)
    assert ((plain > 0.01) & (plain < 0.99)).any()  # where errors would show


def test_similarity_loss_covers_both_streams_and_stays_in_its_head(tmp_path: Path) -> None:
    core = build(tmp_path, "SSOD.UNCERTAIN_NEGATIVES.SIMILARITY_LOSS_WEIGHT", 0.5)
    method = core.methods["UncertainNegatives"]
    outputs, context = run(core)
    losses = method.losses(outputs, None, context)
    total, pairs = torch.zeros(()), 0
    for view in (outputs.labeled, outputs.unlabeled):
        boxes = torch.cat([roi.proposal_boxes.tensor for roi in view.rois])
        embedded = method.embedding(view.predictions.features)
        for image in range(len(view.rois)):
            own = view.image_index == image
            positive = own & (view.labels < 3)
            count = int(own.sum() * positive.sum())
            mean = similarity_loss(embedded[own], embedded[positive], boxes[own], boxes[positive])
            total, pairs = total + count * mean, pairs + count
    torch.testing.assert_close(losses["loss_similarity"], 0.5 * total / pairs)
    losses["loss_similarity"].backward()
    assert all(parameter.grad is None for parameter in core.student.parameters())
    assert method.embedding.weight.grad.abs().sum() > 0


def test_without_labelled_images_and_in_burn_in(tmp_path: Path) -> None:
    core = build(tmp_path)
    method = core.methods["UncertainNegatives"]
    with EventStorage(0):
        outputs, context = run(core)
        nothing = outputs.labeled.predictions[0:0]
        empty = replace(outputs.labeled, rois=[], proposals=[], predictions=nothing)
        alone = replace(outputs, labeled=empty)
        assert method.losses(alone, None, context)["loss_similarity"].item() > 0
        both = method.weigh(outputs, None, context).unlabeled.cls_weights
        assert torch.equal(method.weigh(alone, None, context).unlabeled.cls_weights, both)
        burn_in = replace(outputs, unlabeled=None)
        assert method.weigh(burn_in, None, context) is burn_in
        assert method.losses(burn_in, None, context)["loss_similarity"].item() > 0


def test_images_with_different_numbers_of_rois(tmp_path: Path) -> None:
    core = build(tmp_path)
    method = core.methods["UncertainNegatives"]
    with EventStorage(0):
        outputs, context = run(core)
        view = outputs.unlabeled
        counts = [len(roi) for roi in view.rois]
        whole = method.weigh(outputs, None, context).unlabeled.cls_weights
        # Drop the last background RoI of the first image: the weights of the others stay.
        assert view.rois[0].gt_classes[-1] == 3
        keep = torch.arange(sum(counts)) != counts[0] - 1
        predictions = replace(view.predictions, features=view.predictions.features[keep])
        predictions = replace(predictions, logits=view.predictions.logits[keep])
        fewer = replace(
            view,
            rois=[view.rois[0][:-1], view.rois[1]],
            predictions=predictions,
            cls_weights=view.cls_weights[keep],
        )
        part = method.weigh(replace(outputs, unlabeled=fewer), None, context).unlabeled.cls_weights
    torch.testing.assert_close(part, whole[keep])


def test_soft_sampling_has_no_head_and_no_loss(tmp_path: Path) -> None:
    core = build(tmp_path, "SSOD.UNCERTAIN_NEGATIVES.MODE", "soft_sampling")
    method = core.methods["UncertainNegatives"]
    assert not list(method.parameters())
    with EventStorage(0):
        outputs, context = run(core)
        weights = method.weigh(outputs, None, context).unlabeled.cls_weights
    assert method.losses(outputs, None, context) == {}
    background = (outputs.unlabeled.labels == 3) & (outputs.unlabeled.image_index == 0)
    assert weights[background].min() >= 0.25 and weights[background].min() < 0.9


@pytest.mark.parametrize("key, value", [("MODE", "both"), ("A", 1.5), ("EMBEDDING_DIM", 0)])
def test_bad_keys_are_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"SSOD.UNCERTAIN_NEGATIVES.{key}"):
        build(tmp_path, f"SSOD.UNCERTAIN_NEGATIVES.{key}", value)


def test_weight_map_is_a_mean() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1.0, 1, 3, 3], [-4.0, -4, -1, -1]])
    found = weight_map(boxes, torch.tensor([0.2, 1.0, 0.5]), 3, 4)
    assert found[0, 0] == pytest.approx(0.2) and found[1, 1] == pytest.approx(0.6)
    assert found[2, 2] == 1.0 and np.isnan(found[0, 2]) and np.isnan(found[:, 3]).all()


def test_pictures_and_report(tmp_path: Path) -> None:
    folder = tmp_path / "uncertain_negatives"
    shown = WeightedImage(
        torch.full((3, 64, 64), 80, dtype=torch.uint8),
        torch.tensor([[0.0, 0, 32, 32], [32.0, 32, 64, 64], [0.0, 0, 64, 64]]),
        torch.tensor([0.0, 1.0, 0.5]),
        torch.tensor([True, True, False]),
        targets([5.0, 5, 20, 20]),
    )
    hook = DrawWeights(lambda: shown, 2, str(folder), ["red", "green", "blue"], "BGR")
    with EventStorage(0):
        for step in range(4):
            hook.trainer = SimpleNamespace(iter=step)
            hook.after_step()
    assert sorted(path.name for path in folder.iterdir()) == ["step_2.jpg", "step_4.jpg"]
    picture = cv2.imread(str(folder / "step_4.jpg")).astype(int)  # BGR
    assert picture.shape == (256, 512, 3)
    blue, red, grey = picture[64, 256 + 64], picture[192, 256 + 192], picture[64, 256 + 192]
    assert blue[0] > blue[2] + 40 and red[2] > red[0] + 40 and np.ptp(grey) < 12
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 1, "uncertain_negatives/mean_weight": 0.6}\n'
    )
    section = weight_section(load_runs([str(tmp_path)])[0])
    assert section is not None and section.html.count("data:image/jpeg") == 2
    assert "Mean weight" in section.html
    hook.trainer = SimpleNamespace(start_iter=2)
    hook.before_train()
    assert [path.name for path in folder.iterdir()] == ["step_2.jpg"]


def test_nothing_to_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    assert weight_section(load_runs([str(tmp_path)])[0]) is None


def test_pseudo_labels_of_the_step_are_drawn(tmp_path: Path) -> None:
    core = build(tmp_path)
    method = core.methods["UncertainNegatives"]
    with EventStorage(0):
        outputs, context = run(core)
        method.weigh(outputs, PseudoLabels([]), context)
    assert len(method.last.targets) == 2
    assert isinstance(method.last.targets.gt_boxes, Boxes)
    assert len(method.last.boxes) == len(method.last.weights) == len(outputs.unlabeled.rois[0])
