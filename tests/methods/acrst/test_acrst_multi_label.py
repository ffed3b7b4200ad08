"""The image-level head: pooling, targets and loss."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from ssod.detectors.features import FeatureGroup, FeatureMaps, extract_features
from ssod.methods.acrst.two_stage.multi_label import (
    MultiLabelHead,
    average_pool,
    image_prior,
    multi_label_loss,
    present_classes,
)
from tiny import make_sample, tiny_cfg


def test_padding_is_left_out() -> None:
    maps = torch.full((2, 1, 4, 4), 100.0)
    maps[0, 0, :2, :3] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    maps[1, 0] = 7.0
    # 33 pixels at stride 32 reach into the second cell.
    pooled = average_pool(maps, [(33, 96), (128, 128)], 32)
    assert pooled.tolist() == [[3.5], [7.0]]


def test_head_sits_on_the_last_stage() -> None:
    head = MultiLabelHead.for_detector(build_model(tiny_cfg()))
    assert (head.stage, head.stride) == ("res5", 32)
    assert tuple(head.linear.weight.shape) == (3, 32)


def test_logits_follow_the_order_of_the_images() -> None:
    head = MultiLabelHead(stage="last", stride=8, in_channels=2, prior=torch.full((3,), 0.5))
    maps = torch.randn(3, 2, 4, 4)
    groups = [
        FeatureGroup([0, 2], {}, {"last": maps[[0, 2]]}, [(32, 32), (32, 16)]),
        FeatureGroup([1], {}, {"last": maps[1:2]}, [(8, 32)]),
    ]
    means = [maps[0].mean(dim=(1, 2)), maps[1, :, :1].mean(dim=(1, 2))]
    means.append(maps[2, :, :, :2].mean(dim=(1, 2)))
    expected = head.linear(torch.stack(means))
    assert torch.allclose(head(FeatureMaps(groups, 3)), expected, atol=1e-6)


def test_learns_which_classes_are_present() -> None:
    model = build_model(tiny_cfg())
    head = MultiLabelHead.for_detector(model)
    parameters = [*model.backbone.bottom_up.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    samples = [make_sample(index, True) for index in range(4)]
    labels = [sample.instances for sample in samples if sample.instances is not None]
    present = present_classes(labels, 3, torch.device("cpu"))
    images = [sample.weak for sample in samples]
    for _ in range(150):
        loss = multi_label_loss(head(extract_features(model, images)), present, 2.0, 0.25)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    active = head(extract_features(model, images)).sigmoid() >= 0.2
    assert not present.all() and torch.equal(active, present)


def test_prior_of_the_labelled_images() -> None:
    # Repeated boxes count once; no class is certain, and none is impossible.
    prior = image_prior([[0, 0, 1], [0], [0, 1], [0]], 3)
    assert prior.tolist() == [0.875, 0.5, 0.125]
    assert image_prior([], 2).tolist() == [0.5, 0.5]


def test_untrained_head_gives_the_prior() -> None:
    model = build_model(tiny_cfg())
    head = MultiLabelHead.for_detector(model, torch.tensor([0.9, 0.5, 0.05]))
    with torch.no_grad():
        head.linear.weight.zero_()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    activations = head(extract_features(model, [image])).sigmoid()
    assert activations[0].tolist() == pytest.approx([0.9, 0.5, 0.05])


def test_untrained_head_without_a_prior_knows_nothing() -> None:
    model = build_model(tiny_cfg()).eval()
    head = MultiLabelHead.for_detector(model)
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    activations = head(extract_features(model, [image])).sigmoid()
    assert (activations - 0.5).abs().max() < 0.25


def test_present_classes() -> None:
    targets = []
    for classes in ([2, 0, 2], []):
        target = Instances((8, 8))
        target.gt_classes = torch.tensor(classes, dtype=torch.int64)
        targets.append(target)
    found = present_classes(targets, 4, torch.device("cpu"))
    assert found.tolist() == [[True, False, True, False], [False] * 4]
    assert present_classes([], 4, torch.device("cpu")).shape == (0, 4)


def test_loss_by_hand() -> None:
    # p = sigma(0) = 0.5 for a present class; p = 0.8 for an absent one. Two images share the mean.
    logits = torch.tensor([[0.0, math.log(4.0)], [-50.0, 50.0]], requires_grad=True)
    present = torch.tensor([[True, False], [False, True]])
    expected = 0.25 * 0.5**2 * math.log(2.0) + 0.75 * 0.8**2 * math.log(5.0)
    loss = multi_label_loss(logits, present, gamma=2.0, alpha=0.25)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_no_images() -> None:
    head = MultiLabelHead(stage="res5", stride=32, in_channels=5, prior=torch.full((3,), 0.5))
    logits = head(FeatureMaps([], 0))
    loss = multi_label_loss(logits, torch.zeros(0, 3, dtype=torch.bool), 2.0, 0.25)
    loss.backward()
    assert logits.shape == (0, 3) and loss.item() == 0.0
    assert float(head.linear.weight.grad.abs().sum()) == 0.0
