"""Losses a row at a time."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from ssod.detectors.rcnn.losses import (
    box_regression_loss,
    foreground_deltas,
    roi_classification_loss,
)
from ssod.errors import UserError
from ssod.structures import SSODBatch
from steps import core_of
from tiny import make_sample, tiny_cfg


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])  # p = 1/4, 3/4
    focal = roi_classification_loss(logits, torch.tensor([0]), "focal", 2.0)
    assert focal.item() == pytest.approx((3 / 4) ** 2 * math.log(4))
    plain = roi_classification_loss(logits, torch.tensor([1]), "cross_entropy", 2.0)
    assert plain.item() == pytest.approx(math.log(4 / 3))
    assert roi_classification_loss(
        torch.zeros(0, 4), torch.zeros(0).long(), "focal", 1.5
    ).shape == (0,)


def test_focal_gradient_is_finite_at_certainty() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    roi_classification_loss(logits, torch.tensor([0]), "focal", 0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_unknown_loss_is_one_line() -> None:
    with pytest.raises(UserError, match="SSOD.ROI_CLS_LOSS"):
        roi_classification_loss(torch.zeros(1, 2), torch.zeros(1).long(), "hinge", 1.0)


def test_box_regression_by_hand() -> None:
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    source = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    target = torch.tensor([[5.0, 0.0, 15.0, 10.0]])  # dx = 0.5
    loss = box_regression_loss(source, torch.zeros(1, 4), target, transform, "smooth_l1", 0.0)
    assert loss.tolist() == pytest.approx([0.5])
    giou = box_regression_loss(source, torch.zeros(1, 4), target, transform, "giou", 0.0)
    assert giou.item() == pytest.approx(1 - 50 / 150, abs=1e-4)


def test_foreground_deltas_picks_the_class() -> None:
    deltas = torch.arange(16.0).view(2, 8)
    assert foreground_deltas(deltas, torch.tensor([1, 0])).tolist() == [
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert foreground_deltas(torch.zeros(0, 8), torch.zeros(0).long()).shape == (0, 4)


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_supervised_losses_equal_detectron2(storage, loss_type: str, agnostic: bool) -> None:
    """The whole path (grouping, RPN, sampling, heads, losses) against `GeneralizedRCNN.forward`."""
    cfg = tiny_cfg()
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = loss_type
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = agnostic
    cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 0.7
    core = core_of(cfg)
    samples = [make_sample(i, labeled=True) for i in range(3)]
    samples[1].instances = samples[1].instances[:0]  # an image without objects
    inputs = [{"image": s.strong, "instances": s.instances} for s in samples]
    inputs += [{"image": s.weak, "instances": s.instances} for s in samples]
    torch.manual_seed(1)
    ours = core(SSODBatch(samples, []))
    torch.manual_seed(1)
    theirs = core.student(inputs)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-5), name
