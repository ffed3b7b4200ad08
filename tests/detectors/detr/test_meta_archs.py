"""Deformable DETR and RT-DETR as Detectron2 meta-architectures: what the library gets wrong from
scratch, and Detectron2's conventions.
"""

from __future__ import annotations

import copy
import math
import sys
from typing import Any, List

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn

import ssod.detectors.detr.library as library
from detr_case import KEYS, KINDS, build, detr_cfg, inputs, without_labels
from ssod.errors import UserError

pytest.importorskip("transformers")


def without_gradient(model: nn.Module, batch: Any) -> List[str]:
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_with_and_without_labels(kind: str) -> None:
    # The library freezes ResNets, has no loss for the encoder's proposals, and gives the denoising
    # embedding no gradient without labels.
    model, batch = build(kind), inputs()
    assert all(parameter.requires_grad for parameter in model.parameters())
    names = set(model(batch))
    assert not without_gradient(model, batch)
    model.zero_grad(set_to_none=True)
    empty = without_labels(batch)
    assert not without_gradient(model, empty)
    assert set(model(empty)) == names  # the same on every rank
    assert all(torch.isfinite(loss) for loss in model(empty).values())


@pytest.mark.parametrize("kind", KINDS)
def test_heads_start_at_the_prior_and_at_the_reference_points(kind: str) -> None:
    model = build(kind)
    detr = model.detr
    decoder = detr.model.decoder
    classes = decoder.class_embed if kind == "rt_detr" else detr.class_embed
    boxes = decoder.bbox_embed if kind == "rt_detr" else detr.bbox_embed
    for head in classes:
        assert torch.allclose(head.bias, torch.tensor(-math.log(99.0)))
    sizes = [head.layers[-1].bias[2:] for head in boxes]
    assert all(not head.layers[-1].weight.any() for head in boxes)
    point = kind in ("deformable", "refine")  # a point has no size that boxes could start at
    assert torch.equal(sizes[0], torch.full((2,), -2.0 if point else 0.0))
    shared = kind == "deformable"
    assert len({id(head) for head in classes}) == (1 if shared else len(classes))
    assert len({id(head) for head in boxes}) == (1 if shared else len(boxes))
    if kind != "deformable":
        assert not torch.equal(classes[0].weight, classes[1].weight)


def test_norms_start_at_one() -> None:
    model = build("rt_detr", "MODEL.RT_DETR.NORM", "BN")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(torch.equal(n.weight, torch.ones_like(n.weight)) for n in norms)


@pytest.mark.parametrize("kind", KINDS)
def test_copy_and_state_dict_stand_alone(kind: str) -> None:
    # Heads that the decoder shares with the model have one name, and a copy (the teacher) has its
    # own ones.
    model = build(kind)
    twin = copy.deepcopy(model)
    own = {id(parameter) for parameter in model.parameters()}
    assert not own & {id(parameter) for parameter in twin.parameters()}
    if kind != "rt_detr":
        assert twin.detr.model.decoder.bbox_embed in (None, twin.detr.bbox_embed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    twin.load_state_dict(model.state_dict())
    model.eval(), twin.eval()
    one, other = (m(inputs())[0]["instances"] for m in (model, twin))
    assert torch.equal(one.scores, other.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_results_have_the_wanted_size(kind: str) -> None:
    model = build(kind, "TEST.DETECTIONS_PER_IMAGE", 7).eval()
    entry = {"image": inputs()[0]["image"], "height": 96, "width": 192}
    with torch.no_grad():
        (raw,) = model.inference([entry], do_postprocess=False)
        (found,) = model([entry])
    instances = found["instances"]
    assert instances.image_size == (96, 192) and len(instances) == 7
    assert instances.pred_classes.max() < 3 and (instances.scores.diff() <= 0).all()
    scaled = raw.pred_boxes.tensor * torch.tensor([3.0, 1.5, 3.0, 1.5])
    assert torch.allclose(instances.pred_boxes.tensor, scaled, atol=1e-4)


def set_prediction(model: Any, boxes: Tensor) -> None:
    """Lets the model predict these boxes (Q, 4), as shares, for every image."""
    forward = model.detr.forward

    def replaced(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.pred_boxes = boxes.expand_as(output.pred_boxes)
        return output

    model.detr.forward = replaced


@pytest.mark.parametrize(
    "kind, keys, expected",
    [
        # Boxes are shares of the image without its padding.
        ("deformable", (), [[0, 0, 32, 24], [0, 0, 32, 32]]),
        # The model does not know of the padding (to 64 x 64 here), so neither do its boxes.
        ("rt_detr", (), [[0, 0, 32, 32], [0, 0, 32, 32]]),
        # Images are squashed: shares of what they were.
        ("rt_detr", ("MODEL.RT_DETR.INPUT_SIZE", (64, 96)), [[0, 0, 32, 24], [0, 0, 32, 32]]),
    ],
)
def test_shares_of_which_size(kind: str, keys: Any, expected: List[List[int]]) -> None:
    model = build(kind, *keys).eval()
    set_prediction(model, torch.tensor([0.25, 0.25, 0.5, 0.5]))
    with torch.no_grad():
        found = model(inputs((48, 64), (64, 64)))
    boxes = torch.stack([entry["instances"].pred_boxes.tensor[0] for entry in found])
    assert torch.allclose(boxes, torch.tensor(expected, dtype=torch.float32))


class Patches(nn.Module):
    """A backbone in which no pixel sees another cell, so padding cannot leak."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.output_shape, self.size_divisibility = body.output_shape, 1
        self.layers = nn.ModuleDict(
            {f"p{level}": nn.Conv2d(3, 32, 2**level, 2**level) for level in (3, 4, 5)}
        )

    def forward(self, images: Tensor) -> Any:
        return {name: layer(images) for name, layer in self.layers.items()}


@pytest.mark.parametrize("kind", ["deformable", "two_stage"])
def test_padding_changes_nothing(kind: str) -> None:
    model = build(kind)
    model.detr.model.backbone.body = Patches(model.backbone)
    model.eval()
    small, large = inputs((64, 64), (96, 128))
    with torch.no_grad():
        alone = model.predict([small["image"]])
        padded = model.predict([small["image"], large["image"]])
    for one, both in (
        (alone.decoder.logits, padded.decoder.logits),
        (alone.decoder.boxes, padded.decoder.boxes),
    ):
        assert torch.allclose(one[:, 0], both[:, 0], atol=1e-5)
    # The library's GroupNorm does see it.
    for projection in model.detr.model.input_proj:
        norm = nn.GroupNorm(4, 32)
        norm.load_state_dict(projection[1].state_dict())
        projection[1] = norm
    with torch.no_grad():
        seen = model.predict([small["image"], large["image"]]).decoder.logits
    assert not torch.allclose(alone.decoder.logits[:, 0], seen[:, 0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_single_precision_under_autocast(kind: str) -> None:
    model, batch = build(kind).eval(), inputs((256, 256))
    with torch.no_grad():
        exact = model.predict([batch[0]["image"]])
        with torch.autocast("cpu", torch.bfloat16):
            fast = model.predict([batch[0]["image"]])
    boxes = fast.decoder.boxes
    assert boxes.dtype == torch.float32 and fast.decoder.logits.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())
    if kind in ("deformable", "refine"):  # elsewhere rounding may choose other queries
        assert torch.allclose(exact.decoder.boxes, boxes, atol=2e-3)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_backbone_is_the_configs() -> None:
    pytest.importorskip("timm")
    cfg = detr_cfg("deformable")
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "resnet10t"),
            *("MODEL.DEFORMABLE_DETR.IN_FEATURES", ["res4", "res5"]),
        ]
    )
    model = build_model(cfg)
    assert type(model.backbone).__name__ == "TimmBackbone"
    assert len(model(inputs())) == 6


@pytest.mark.parametrize(
    "kind, keys, message",
    [
        (
            "deformable",
            ("MODEL.DEFORMABLE_DETR.IN_FEATURES", ["p9"]),
            "outputs of the backbone, p2",
        ),
        ("deformable", ("MODEL.DEFORMABLE_DETR.IN_FEATURES", ["p4", "p3"]), "fine levels first"),
        ("deformable", ("MODEL.DEFORMABLE_DETR.HIDDEN_DIM", 40), "a multiple of 32 and of"),
        ("deformable", ("MODEL.DEFORMABLE_DETR.TWO_STAGE", True), "TWO_STAGE needs"),
        ("deformable", ("MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 2), "use at least that many"),
        ("rt_detr", ("MODEL.RT_DETR.NORM", "LN"), "NORM is 'LN'"),
        ("rt_detr", ("MODEL.RT_DETR.INPUT_SIZE", (60, 64)), "multiples of 32"),
        ("rt_detr", ("MODEL.RT_DETR.IN_FEATURES", ["p3", "p5"]), "twice the one before"),
    ],
)
def test_wrong_values(kind: str, keys: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(kind, *keys)


@pytest.mark.parametrize("kind", ["two_stage", "rt_detr"])
def test_image_too_small_for_the_queries(kind: str) -> None:
    key = f"MODEL.{KEYS[KINDS[kind][0]]}.NUM_OBJECT_QUERIES"
    with pytest.raises(UserError, match="places for 90 queries"):
        build(kind, key, 90)(inputs((16, 16)))


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"DeformableDETR needs transformers.*ssod\[transformers\]"):
        build("deformable")
    monkeypatch.undo()
    with pytest.raises(UserError, match="needs transformers 5"):
        library.transformers_class("NoSuchClass", "RTDETRV2")


def test_labels_are_boxes_of_detectron2() -> None:
    model = build("deformable").eval()
    entry = inputs()[0]
    assert isinstance(entry["instances"].gt_boxes, Boxes)
    assert model.input_format == "BGR" and model.num_classes == 3
