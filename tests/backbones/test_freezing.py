"""FREEZE_AT counts the stem as 1 and the first stage of blocks as 2, whatever a family calls
them.
"""

from __future__ import annotations

from typing import Tuple

import pytest
import torch
from torch import nn

from ssod.backbones.freezing import freeze_stages
from ssod.backbones.timm_models import create_features, create_full, default_indices
from ssod.errors import UserError

pytest.importorskip("timm")


def make(name: str) -> Tuple[nn.Module, nn.Module]:
    full = create_full(name)
    return create_features(full, name, default_indices(full), False, 3), full


@pytest.mark.parametrize(
    "name, stem, first",
    [
        ("test_resnet", ("conv1.", "bn1."), ("layer1.",)),
        ("test_efficientnet", ("conv_stem.", "bn1."), ("blocks.0.",)),
        ("test_convnext", ("stem_",), ("stages_0.",)),
        ("test_byobnet", ("stem.",), ("stages_0.",)),
        (
            "test_vit",
            ("model.cls_token", "model.pos_embed", "model.patch_embed."),
            ("model.blocks.0.",),
        ),
    ],
)
def test_families(name: str, stem: Tuple[str, ...], first: Tuple[str, ...]) -> None:
    for freeze_at, frozen in ((0, ()), (1, stem), (2, stem + first)):
        body, full = make(name)
        names = {key for key, _ in body.named_parameters()}
        freeze_stages(body, full, freeze_at)
        learning = {key for key, p in body.named_parameters() if p.requires_grad}
        assert {key for key in names - learning if not key.startswith(frozen)} == set()
        assert not [key for key in learning if frozen and key.startswith(frozen)]
        assert learning
        assert (names == learning) == (freeze_at == 0)


def test_statistics_of_frozen_stages_stay_in_train_mode() -> None:
    body, full = make("test_efficientnet")
    freeze_stages(body, full, 2)
    body.train()
    before = {key: value.clone() for key, value in body.state_dict().items()}
    body(torch.randn(2, 3, 64, 64))
    moved = [
        key
        for key, value in body.state_dict().items()
        if "running" in key and not torch.equal(value, before[key])
    ]
    assert moved and not [key for key in moved if key.startswith(("bn1.", "blocks.0."))]


def test_more_stages_than_there_are() -> None:
    body, full = make("test_resnet")
    with pytest.raises(
        UserError,
        match="MODEL.TIMM.FREEZE_AT is 99: .* a stem and 4 groups of blocks, so use 0 to 5",
    ):
        freeze_stages(body, full, 99)


def test_a_model_that_does_not_tell_its_stages() -> None:
    body, _ = make("test_resnet")
    with pytest.raises(UserError, match="FREEZE_AT: Linear does not tell its stages: set it to 0"):
        freeze_stages(body, nn.Linear(1, 1), 1)
