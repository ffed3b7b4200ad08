"""Cascade, Mask and Cascade Mask R-CNN in the step: Detectron2's losses, weights in every part of
them.
"""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from region_rig import (
    KEYS,
    ellipses,
    plain,
    region_cfg,
    region_model,
    scene,
    three_scenes,
)
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.cascade import judge_boxes, next_rois
from ssod.detectors.rcnn.masks import MaskRows, mask_losses, mask_targets
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import BoxPredictions, classify
from ssod.detectors.rcnn.stages import box_stage
from ssod.detectors.registry import build_adapter
from ssod.methods import StepContext, build_methods
from ssod.structures import SSODBatch, View, Views, make_targets

CASCADES = ("Cascade R-CNN", "Cascade Mask R-CNN")
SEED = 5


def run(model: Any, family: str, images: List[Tensor], targets: List[Instances]) -> ViewOutputs:
    """The labelled stream alone."""
    torch.manual_seed(SEED)
    return build_adapter(region_cfg(family), model).run(Views(View(images, targets))).labeled


def losses(model: Any, family: str, view: ViewOutputs) -> Dict[str, Tensor]:
    return build_adapter(region_cfg(family), model).losses(view)


def detectron2_losses(
    model: Any, images: List[Tensor], targets: List[Instances]
) -> Dict[str, Tensor]:
    torch.manual_seed(SEED)
    inputs = [{"image": i, "instances": plain(t)} for i, t in zip(images, targets)]
    return model(inputs)


@pytest.mark.parametrize("family", KEYS)
def test_losses_and_gradients_are_detectron2s(family: str, storage: EventStorage) -> None:
    images, targets = three_scenes(masks="Mask" in family)
    model = region_model(family).train()
    theirs = detectron2_losses(model, images, targets)
    torch.stack(list(theirs.values())).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    ours = losses(model, family, run(model, family, images, targets))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
    torch.stack(list(ours.values())).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-4, atol=2e-6, msg=lambda m: f"{name}: {m}"
        )


@pytest.mark.parametrize("family", KEYS)
def test_detections_are_detectron2s(family: str, storage: EventStorage) -> None:
    images, _ = three_scenes(masks=False)
    model = region_model(family).eval()
    stages = (
        model.roi_heads.box_predictor if family in CASCADES else [model.roi_heads.box_predictor]
    )
    for predictor in stages:
        predictor.test_score_thresh = 0.2
    with torch.no_grad():
        theirs = model.inference([{"image": image} for image in images], do_postprocess=False)
        ours = build_adapter(region_cfg(family), model).detect(model, images, 0.2).detections
    for expected, found in zip(theirs, ours):
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(found.scores, expected.scores)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        assert found.has("pred_masks") == ("Mask" in family)
        if found.has("pred_masks"):
            whole = detector_postprocess(expected, *expected.image_size)
            assert torch.equal(found.pred_masks, whole.pred_masks)
            assert found.pred_masks.dtype == torch.bool


@torch.no_grad()
def test_nothing_detected_has_masks_of_the_image(storage: EventStorage) -> None:
    images, _ = three_scenes(masks=False)
    model = region_model("Cascade Mask R-CNN").eval()
    adapter = build_adapter(region_cfg("Cascade Mask R-CNN"), model)
    for image, found in zip(images, adapter.detect(model, images, 1.0).detections):
        assert found.pred_masks.shape == (0, *image.shape[1:]) and len(found) == 0


def weighted(targets: List[Instances], **weights: float) -> List[Instances]:
    """Copies whose labels have these weights."""
    found = []
    for target in targets:
        columns = {name: torch.full((len(target),), value) for name, value in weights.items()}
        masks = target.gt_masks if target.has("gt_masks") else None
        boxes, classes = target.gt_boxes.tensor, target.gt_classes
        own = make_targets(target.image_size, boxes, classes, weights=columns)
        if masks is not None:
            own.gt_masks = masks
        found.append(own)
    return found


@pytest.mark.parametrize("family", CASCADES)
def test_label_weights_reach_every_stage(family: str, storage: EventStorage) -> None:
    images, targets = three_scenes(masks="Mask" in family)
    model = region_model(family).train()
    full = run(model, family, images, targets)
    half = run(model, family, images, weighted(targets, roi_cls_weight=0.5, roi_reg_weight=0.25))
    for before, after in zip(full.stages, half.stages):
        foreground = before.labels < 3
        assert foreground.any() and not foreground.all()
        assert torch.equal(after.labels, before.labels)
        assert torch.equal(after.cls_weights, torch.where(foreground, 0.5, 1.0))
        assert torch.equal(after.reg_weights, torch.where(foreground, 0.25, 1.0))
    first, second = losses(model, family, full), losses(model, family, half)
    for stage in range(3):
        name = f"loss_box_reg_stage{stage}"
        torch.testing.assert_close(second[name], 0.25 * first[name])
        assert second[f"loss_cls_stage{stage}"] < first[f"loss_cls_stage{stage}"]


@pytest.mark.parametrize("family", ("Mask R-CNN", "Cascade Mask R-CNN"))
def test_a_mask_weighs_what_its_label_does(family: str, storage: EventStorage) -> None:
    images, targets = three_scenes(masks=True)
    model = region_model(family).train()
    full = run(model, family, images, targets)
    half = run(model, family, images, weighted(targets, roi_cls_weight=0.5, roi_reg_weight=0.0))
    first, second = losses(model, family, full), losses(model, family, half)
    torch.testing.assert_close(second["loss_mask"], 0.5 * first["loss_mask"])


def test_mask_loss_by_hand() -> None:
    """ln(1 + e^-x) a pixel where the target is 1, ln(1 + e^x) where it is 0, mean over F S S."""
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, -1.0]]])
    targets = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [1, 1]]]).bool()
    rows = MaskRows(logits, targets, torch.tensor([1.0, 0.5]), torch.zeros(()))

    class Heads:
        class mask_head:
            loss_weight = 3.0

    ln2 = 0.6931472
    first = (0.1269280 + 3 * ln2) / 4
    second = (3 * ln2 + 1.3132617) / 4
    found = mask_losses(Heads, rows)["loss_mask"]
    assert float(found) == pytest.approx(3.0 * (first + 0.5 * second) / 2, abs=1e-6)
    empty = MaskRows(logits[:0], targets[:0], torch.zeros(0), torch.zeros(()))
    assert float(mask_losses(Heads, empty)["loss_mask"]) == 0.0


def test_mask_targets_are_cut_from_shared_masks() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True
    masks[1, 2:6, 2:6] = True
    boxes = torch.tensor([[0.0, 0, 8, 8], [2.0, 2, 6, 6], [0.0, 0, 8, 8]])
    index = torch.tensor([0, 1, 1])
    found = mask_targets(masks, index, boxes, 4)
    corner = torch.zeros(4, 4, dtype=torch.bool)
    corner[:2, :2] = True
    centre = torch.zeros(4, 4, dtype=torch.bool)
    centre[1:3, 1:3] = True
    assert torch.equal(found, torch.stack([corner, torch.ones(4, 4, dtype=torch.bool), centre]))
    assert torch.equal(found, BitMasks(masks[index]).crop_and_resize(boxes, 4))
    assert mask_targets(masks, index[:0], boxes[:0], 4).shape == (0, 4, 4)


def test_labels_without_a_mask_teach_none(storage: EventStorage) -> None:
    images, targets = three_scenes(masks=True)
    model = region_model("Mask R-CNN").train()
    known = run(model, "Mask R-CNN", images, targets).masks
    targets[0].gt_masks.tensor[1] = False  # its mask is not known
    del targets[2]._fields["gt_masks"]
    view = run(model, "Mask R-CNN", images, targets)
    index = torch.cat([roi.gt_index for roi in view.rois if roi.has("gt_index")])
    assert known is not None and view.masks is not None
    of_first = (view.rois[0].gt_index == 0).sum()
    assert 0 < len(view.masks.weights) == of_first < len(known.weights) and (index == 1).any()
    for target in targets:
        target.remove("gt_masks") if target.has("gt_masks") else None
    view = run(model, "Mask R-CNN", images, targets)
    loss = losses(model, "Mask R-CNN", view)["loss_mask"]
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None for p in model.roi_heads.mask_head.parameters())


def test_later_stages_match_at_their_own_iou(storage: EventStorage) -> None:
    """A box that the first stage leaves where it is: IoU 0.55 is foreground at 0.5, not at 0.6."""
    model = region_model("Cascade R-CNN").train()
    target = scene((64, 64), [[0, 0, 20, 20], [30, 30, 50, 50]], [0, 2], masks=False)
    target.gt_scores = torch.tensor([0.9, 0.8])
    target.gt_roi_cls_weight = torch.tensor([0.3, 0.7])
    target.gt_index = torch.arange(2)
    roi = Instances((64, 64))
    # IoU 0.55, 0.8 and 0 with a label; the last box is empty.
    roi.proposal_boxes = Boxes(
        torch.tensor([[0.0, 0, 20, 11], [30, 30, 50, 46], [0, 40, 20, 60], [70, 70, 90, 90]])
    )
    zero = BoxPredictions(torch.zeros(4, 1), torch.zeros(4, 4), torch.zeros(4, 4))
    (found,) = next_rois(model.roi_heads, 1, [roi], zero, [target])
    assert found.gt_classes.tolist() == [3, 2, 3]
    assert found.gt_index.tolist() == [-1, 1, -1]
    assert found.origin.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.gt_scores, torch.tensor([0.0, 0.8, 0.0]))
    torch.testing.assert_close(found.gt_roi_cls_weight, torch.tensor([1.0, 0.7, 1.0]))
    assert found.gt_boxes.tensor[1].tolist() == [30, 30, 50, 50]
    (third,) = next_rois(model.roi_heads, 2, [found[1:]], zero[slice(0, 2)], [target])
    assert third.gt_classes.tolist() == [2, 3] and third.origin.tolist() == [1, 2]
    (none,) = next_rois(model.roi_heads, 1, [roi], zero, [scene((64, 64), [], [], False)])
    assert none.gt_classes.tolist() == [3, 3, 3] and none.gt_roi_cls_weight.tolist() == [1, 1, 1]


def test_class_weights_hold_in_every_stage(storage: EventStorage) -> None:
    cfg = region_cfg("Cascade R-CNN")
    cfg.SSOD.METHODS = ("GradientReweighting",)
    (method,) = build_methods(cfg).values()
    method.balance.logits.copy_(torch.tensor([1.0, 0.5, 0.0, -1.0]))
    method.mean_weights.fill_(2.0)
    images, targets = three_scenes(masks=False)
    view = run(region_model("Cascade R-CNN").train(), "Cascade R-CNN", images, targets)
    context = StepContext(0, SSODBatch([], []), None, None)
    found = method.weigh(Outputs(view, view), None, context)
    own = method.balance.weights / 2
    for before, after in zip(view.stages, found.unlabeled.stages):
        torch.testing.assert_close(after.cls_weights, own[before.labels])
    half = method.balance.weights**method.beta / 2
    for before, after in zip(view.stages, found.labeled.stages):
        torch.testing.assert_close(after.cls_weights, half[before.labels])


def test_uncertain_background_keeps_its_weight_in_later_stages(storage: EventStorage) -> None:
    from ssod.methods.multi_phase.uncertain_negatives import _weighted

    images, targets = three_scenes(masks=False)
    view = run(region_model("Cascade R-CNN").train(), "Cascade R-CNN", images, targets)
    rows = torch.where(view.labels == 3, torch.arange(len(view.labels)) / 100, 1.0)
    for stage in view.map_stages(lambda own: _weighted(own, rows)).stages:
        origin = torch.arange(len(rows)) if stage.origin is None else stage.origin
        expected = torch.where(stage.labels == 3, rows[origin], 1.0)
        torch.testing.assert_close(stage.cls_weights, expected)
    # The boxes of later stages are near those of the first, so their rows must be the same ones.
    last = view.later[-1]
    assert last.origin is not None
    before, after = (torch.cat([r.proposal_boxes.tensor for r in v.rois]) for v in (view, last))
    images_of = view.image_index[last.origin]
    assert torch.equal(images_of, last.image_index)
    assert ((before[last.origin] - after).abs().max(dim=1).values < 40).all()


@torch.no_grad()
def test_the_whole_cascade_reads_like_one_stage() -> None:
    """Its probabilities are the mean over the stages, its deltas lead to the last stage's boxes."""
    from ssod.detectors.features import extract_features

    model = region_model("Cascade R-CNN").eval()
    images, _ = three_scenes(masks=False)
    maps = extract_features(model, images[:1])
    boxes = Boxes(torch.tensor([[4.0, 4, 30, 30], [20, 10, 50, 60]]))
    found = judge_boxes(model.roi_heads, maps, [boxes])
    own, total = boxes, torch.zeros(2, 4)
    for stage in range(3):
        head = box_stage(model.roi_heads, stage)
        part = classify(head, maps, [own])
        total += part.logits.softmax(dim=1)
        moved = head.box_predictor.box2box_transform.apply_deltas(part.deltas, own.tensor)
        own = Boxes(moved.clone())
        own.clip((64, 64))
    transform = box_stage(model.roi_heads).box_predictor.box2box_transform
    torch.testing.assert_close(found.logits.softmax(dim=1), total / 3)
    reached = transform.apply_deltas(found.deltas, boxes.tensor)
    torch.testing.assert_close(reached, moved, rtol=1e-4, atol=1e-3)


def test_ellipses_fill_their_boxes() -> None:
    mask = ellipses((20, 20), torch.tensor([[2.0, 4, 12, 16]])).tensor[0]
    assert float(mask.float().sum()) == pytest.approx(3.1416 * 5 * 6, rel=0.05)
