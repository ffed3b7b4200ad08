"""DETR's losses: those of the library where every weight is 1, and by hand where it is not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Dict

import pytest
import torch
from detectron2.structures import Boxes, Instances

from detr_case import build, inputs
from ssod.detectors.detr.losses import Criterion, box_overlaps, focal_rows, varifocal_rows
from ssod.detectors.detr.predictions import detections
from ssod.detectors.detr.stream_losses import stream_losses
from ssod.detectors.detr.targets import DetrLabels
from ssod.structures import make_targets

CRITERION = Criterion(
    num_classes=2,
    class_cost=1.0,
    l1_cost=5.0,
    giou_cost=2.0,
    class_weight=1.0,
    l1_weight=5.0,
    giou_weight=2.0,
    alpha=0.25,
    varifocal=False,
)


def labels_of(*counts: int) -> DetrLabels:
    torch.manual_seed(1)
    total = sum(counts)
    boxes = torch.cat([0.3 + 0.4 * torch.rand(total, 2), 0.1 + 0.2 * torch.rand(total, 2)], 1)
    ones = torch.ones(total)
    return DetrLabels(torch.arange(total) % 2, boxes, ones, ones, ones, list(counts))


def library_losses(kind: str, model: Any, batch: Any, empty: bool) -> Dict[str, float]:
    """The results of the library's own loss function, by this project's names."""
    from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    rt_detr = kind == "rt_detr"
    own = RTDetrForObjectDetectionLoss if rt_detr else DeformableDetrForObjectDetectionLoss
    model.detr.config.auxiliary_loss = True
    kept: Dict[str, Any] = {}

    def both(logits: Any, labels: Any, device: Any, *others: Any, **more: Any) -> Any:
        kept.update(own(logits, labels, device, *others, **more)[1])
        return capture(logits, labels, device, *others, **more)

    capture = model.detr.loss_function
    model.detr.loss_function = both
    torch.manual_seed(2)  # of the denoising queries
    losses = model(batch)
    model.detr.loss_function = capture
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    wanted = dict.fromkeys(losses, 0.0)
    for name, value in kept.items():
        base, _, suffix = name.removeprefix("loss_").partition("_")
        part = {"ce": "cls", "vfl": "cls"}.get(base, base)
        if part not in ("cls", "bbox", "giou"):
            continue
        scale = 1.0 if rt_detr else weights[f"loss_{base}"]
        where = "_dn" if "dn" in suffix else "_aux" if suffix else ""
        if rt_detr and suffix == "aux_2":  # after the two of the decoder: the encoder
            where = "_enc"
        wanted[f"loss_{part}{where}"] += scale * float(value.detach())
    found = {name: float(value.detach()) for name, value in losses.items()}
    return {name: found[name] - wanted[name] for name in found}


@pytest.mark.parametrize("kind", ["deformable", "refine", "rt_detr"])
@pytest.mark.parametrize("sizes", [[(64, 64), (64, 64)], [(64, 64), (48, 80), (64, 32)]])
def test_weight_one_is_the_librarys_loss(kind: str, sizes: Any) -> None:
    pytest.importorskip("transformers")
    keys = ()
    if kind != "rt_detr":
        node = "MODEL.DEFORMABLE_DETR"
        keys = (f"{node}.CLASS_WEIGHT", 1.0, f"{node}.CLASS_COST", 1.0)
    model, batch = build(kind, *keys), inputs(*sizes)
    batch[1]["instances"] = batch[1]["instances"][:0]
    differences = library_losses(kind, model, batch, empty=False)
    assert max(map(abs, differences.values())) < 2e-6, differences


def test_encoder_proposals_are_told_from_background() -> None:
    # The published two-stage model scores objects by the first class, whatever their class is.
    pytest.importorskip("transformers")
    model, batch = build("two_stage"), inputs()
    found = {name: float(v.detach()) for name, v in model(batch).items()}
    for entry in batch:
        entry["instances"].gt_classes = (entry["instances"].gt_classes + 1) % 3
    other = {name: float(v.detach()) for name, v in model(batch).items()}
    assert all(found[n] == other[n] for n in found if n.endswith("_enc"))
    assert found["loss_cls"] != other["loss_cls"]


def test_matching_by_hand() -> None:
    # Query 1 lies on label 0 and query 0 on label 1; query 2 is free.
    labels = labels_of(2)
    boxes = torch.stack([labels.boxes[1], labels.boxes[0], torch.tensor([0.1, 0.1, 0.1, 0.1])])
    logits = torch.zeros(1, 1, 3, 2)
    assert CRITERION.match(logits, boxes[None, None], labels).tolist() == [[[1, 0, -1]]]
    # More labels than queries: each query has one.
    few = CRITERION.match(logits[:, :, :1], boxes[None, None, :1], labels)
    assert few.tolist() == [[[1]]]
    # Numbers that are none do not stop the solver.
    bad = logits.clone()
    bad[..., 0, :] = math.nan
    assert sorted(CRITERION.match(bad, boxes[None, None], labels).flatten().tolist()) == [-1, 0, 1]


def test_each_layer_and_image_matches_its_own() -> None:
    labels = labels_of(1, 0, 2)
    logits, boxes = torch.zeros(2, 3, 4, 2), torch.full((2, 3, 4, 4), 0.05)
    boxes[0, 0, 3], boxes[1, 0, 1] = labels.boxes[0], labels.boxes[0]
    boxes[:, 2, 0], boxes[:, 2, 2] = labels.boxes[1], labels.boxes[2]
    found = CRITERION.match(logits, boxes, labels)
    assert found[0, 0].tolist() == [-1, -1, -1, 0] and found[1, 0].tolist() == [-1, 0, -1, -1]
    assert (found[:, 1] == -1).all() and found[:, 2].tolist() == [[0, -1, 1, -1]] * 2


def test_focal_and_varifocal_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    p = 1 / (1 + math.exp(-2.0))
    object_part = 0.25 * 0.5**2 * math.log(2)
    other_part = 0.75 * p**2 * -math.log(1 - p)
    found = focal_rows(logits, torch.tensor([0]), 0.25)
    assert float(found[0]) == pytest.approx(object_part + other_part, rel=1e-5)
    background = focal_rows(logits, torch.tensor([2]), 0.25)
    assert float(background[0]) == pytest.approx(0.75 * 0.25 * math.log(2) + other_part, rel=1e-5)
    varied = varifocal_rows(logits, torch.tensor([0]), torch.tensor([0.6]), 0.75)
    assert float(varied[0]) == pytest.approx(0.6 * math.log(2) + other_part, rel=1e-5)


def test_overlaps_by_hand() -> None:
    one = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]])
    other = torch.tensor([[0.6, 0.5, 0.2, 0.2], [0.6, 0.2, 0.2, 0.2]])
    iou, giou = box_overlaps(one, other)
    assert torch.allclose(iou, torch.tensor([1 / 3, 0.0]))
    assert torch.allclose(giou, torch.tensor([1 / 3, -1 / 3]), atol=1e-6)


def test_weights_of_labels_act_in_every_layer() -> None:
    labels = labels_of(2, 1)
    torch.manual_seed(3)
    logits, boxes = torch.randn(3, 2, 5, 2), torch.rand(3, 2, 5, 4)
    assignment = CRITERION.match(logits, boxes, labels)

    def losses(cls: Any, reg: Any) -> Dict[str, torch.Tensor]:
        weighted = replace(labels, cls_weights=torch.tensor(cls), reg_weights=torch.tensor(reg))
        return CRITERION.losses(logits, boxes, weighted, assignment, 2.0)

    full, none = losses([1.0, 1, 1], [1.0, 1, 1]), losses([0.0, 0, 0], [0.0, 0, 0])
    first = losses([1.0, 0, 0], [0.5, 0, 0])
    second = losses([0.0, 1, 1], [0.5, 1, 1])
    assert all(value.shape == (3,) for value in full.values())
    assert torch.equal(none["loss_bbox"], torch.zeros(3))
    for name in ("loss_bbox", "loss_giou"):
        assert torch.allclose(first[name] + second[name], full[name], atol=1e-6)
    # Queries without a label count in each.
    total = first["loss_cls"] + second["loss_cls"] - none["loss_cls"]
    assert torch.allclose(total, full["loss_cls"], atol=1e-6)
    assert (full["loss_cls"] > none["loss_cls"]).all()
    # Rows of the last layer can be weighted apart.
    rows = torch.ones(3, 2, 5)
    own = CRITERION.losses(logits, boxes, labels, assignment, 2.0, 0 * rows, 0 * rows)
    assert all(torch.equal(value, torch.zeros(3)) for value in own.values())


@pytest.mark.parametrize("kind", ["two_stage", "rt_detr"])
def test_weights_reach_the_encoder_and_the_denoising_queries(kind: str) -> None:
    pytest.importorskip("transformers")
    model, batch = build(kind), inputs()
    targets = []
    for entry in batch:
        own = entry["instances"]
        boxes, ones = own.gt_boxes.tensor, torch.ones(len(own))
        weights = {"roi_cls_weight": ones, "roi_reg_weight": 0 * ones}
        targets.append(make_targets(own.image_size, boxes, own.gt_classes, None, weights))
    predictions = model.predict([entry["image"] for entry in batch], targets)
    labels = DetrLabels.of(targets, predictions.sizes)
    losses = stream_losses(model.criterion, predictions, labels)
    assert {name.rpartition("_")[2] for name in losses} >= {"aux", "enc"}
    assert all((float(v) == 0.0) == ("cls" not in name) for name, v in losses.items())
    silent = replace(labels, cls_weights=0 * labels.cls_weights)
    less = stream_losses(model.criterion, predictions, silent)
    assert all(float(less[name]) < float(losses[name]) for name in losses if "cls" in name)


def test_images_without_labels() -> None:
    for counts in ((0, 0), (0, 2)):
        labels = labels_of(*counts)
        logits = torch.randn(2, 2, 5, 2, requires_grad=True)
        boxes = torch.rand(2, 2, 5, 4, requires_grad=True)
        assignment = CRITERION.match(logits, boxes, labels)
        assert (assignment[:, 0] == -1).all()
        found = CRITERION.losses(logits, boxes, labels, assignment, 1.0)
        torch.stack([value.sum() for value in found.values()]).sum().backward()
        assert logits.grad is not None and torch.isfinite(logits.grad).all()
        assert boxes.grad is not None and torch.isfinite(boxes.grad).all()


def test_labels_of_targets() -> None:
    targets = [Instances((40, 80)), Instances((40, 40))]
    for target, boxes in zip(targets, ([[0.0, 10, 40, 20]], [])):
        target.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        target.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    made = [make_targets(t.image_size, t.gt_boxes.tensor, t.gt_classes) for t in targets]
    labels = DetrLabels.of(made, [(40, 80), (40, 40)])
    assert torch.allclose(labels.boxes, torch.tensor([[0.25, 0.375, 0.5, 0.25]]))
    assert labels.counts == [1, 0] and len(labels.select(1, 2)) == 0
    assert [len(entry["boxes"]) for entry in labels.as_dicts()] == [1, 0]


def test_one_class_a_query() -> None:
    # Two queries, three classes: the first is likely two of them.
    logits = torch.tensor([[3.0, 2.0, -9.0], [-9.0, -9.0, 1.0]])
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]])

    def found(one_class: bool, most: int = 10) -> Instances:
        return detections(
            logits,
            boxes,
            image_size=(8, 16),
            box_size=(8, 16),
            floor=0.5,
            most=most,
            one_class=one_class,
        )

    assert found(False).pred_classes.tolist() == [0, 1, 2]
    single = found(True)
    assert single.pred_classes.tolist() == [0, 2]
    assert single.pred_boxes.tensor.tolist() == [[4.0, 2.0, 12.0, 6.0], [0.0, 0.0, 8.0, 4.0]]
    assert len(found(False, most=1)) == 1
