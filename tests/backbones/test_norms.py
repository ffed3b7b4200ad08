"""The replacement of BatchNorm. timm's BatchNorm has its activation inside, and no replacement may
lose it.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssod.backbones.norms import set_norm
from ssod.errors import UserError

timm_layers = pytest.importorskip("timm.layers")


def with_batch_norms() -> nn.Sequential:
    """A plain BatchNorm, and one with ReLU inside; mean 1, variance 4, weight 3, bias 5."""
    model = nn.Sequential(nn.BatchNorm2d(24), timm_layers.BatchNormAct2d(24))
    for norm in model:
        norm.eps = 0.0
        for tensor, value in (
            (norm.running_mean, 1.0),
            (norm.running_var, 4.0),
            (norm.weight, 3.0),
            (norm.bias, 5.0),
        ):
            tensor.data.fill_(value)
    return model


def test_frozen_keeps_the_activation_and_the_statistics() -> None:
    model = set_norm(with_batch_norms(), "frozen").train()
    assert list(model.parameters()) == []
    image = torch.full((1, 24, 1, 2), -7.0)
    image[..., 1] = 2.0
    # (x - 1) / 2 * 3 + 5 is -7 and 6.5.
    assert model[0](image)[0, 0].tolist() == [[-7.0, 6.5]]
    assert model[1](image)[0, 0].tolist() == [[0.0, 6.5]]
    assert model[1].running_mean[0] == 1.0 and model[1].running_var[0] == 4.0


def test_group_norm_keeps_the_activation_and_the_affine_parameters() -> None:
    model = set_norm(with_batch_norms(), "GN")
    assert [norm.num_groups for norm in model] == [8, 8]  # the most that divide 24, at most 32
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert model[0].weight[0] == 3.0 and model[1].bias[0] == 5.0
    image = torch.randn(2, 24, 4, 4) * 100
    plain = torch.nn.functional.group_norm(
        image, 8, torch.full((24,), 3.0), torch.full((24,), 5.0), eps=0.0
    )
    torch.testing.assert_close(model[0](image), plain)
    torch.testing.assert_close(model[1](image), plain.relu())


def test_live_changes_nothing() -> None:
    model = with_batch_norms()
    assert set_norm(model, "live") is model
    assert [type(norm) for norm in model] == [nn.BatchNorm2d, timm_layers.BatchNormAct2d]


def test_a_norm_that_is_the_whole_module_is_replaced() -> None:
    assert isinstance(set_norm(nn.BatchNorm2d(4), "GN"), nn.GroupNorm)


def test_other_norms_are_left_alone() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4))
    kinds = [type(norm) for norm in model]
    for norm in ("frozen", "GN"):
        assert [type(module) for module in set_norm(model, norm)] == kinds


def test_unknown_norm() -> None:
    with pytest.raises(UserError, match="MODEL.TIMM.NORM is 'BN': use 'frozen', 'live', 'GN'"):
        set_norm(nn.BatchNorm2d(4), "BN")
