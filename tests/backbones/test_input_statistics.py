"""The model's own input statistics and channel order, whatever the config normalises with."""

from __future__ import annotations

import logging
from typing import Any, List

import pytest
import torch
from detectron2.config import CfgNode, get_cfg

from ssod.backbones.input_statistics import build_input_conversion

MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)  # of RGB in 0..1


def make_cfg(*opts: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    return cfg


def converted(cfg: CfgNode, rgb: List[float]) -> List[float]:
    """One RGB pixel, read and normalised as the config says, through the conversion."""
    read = torch.tensor(rgb[:: -1 if cfg.INPUT.FORMAT == "BGR" else 1])
    normalised = (read - torch.tensor(cfg.MODEL.PIXEL_MEAN)) / torch.tensor(cfg.MODEL.PIXEL_STD)
    conversion = build_input_conversion(cfg, name="a model", mean=MEAN, std=STD)
    return conversion(normalised.view(1, 3, 1, 1)).flatten().tolist()


@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize(
    "statistics",
    [(), ("MODEL.PIXEL_MEAN", [51.0, 102.0, 153.0], "MODEL.PIXEL_STD", [25.5, 51.0, 76.5])],
)
def test_the_model_sees_its_own_statistics(order: str, statistics: Any) -> None:
    cfg = make_cfg("INPUT.FORMAT", order, *statistics)
    # ((0.4, 0.4, 0.0) - mean) / std
    assert converted(cfg, [102.0, 102.0, 0.0]) == pytest.approx([2.0, 0.0, -2.0], abs=1e-4)


def test_nothing_is_computed_where_the_config_agrees() -> None:
    same = ("MODEL.PIXEL_MEAN", [51.0, 102.0, 153.0], "MODEL.PIXEL_STD", [25.5, 51.0, 76.5])
    image = torch.randn(1, 3, 2, 2)
    for order, unchanged in (("RGB", True), ("BGR", False)):
        conversion = build_input_conversion(
            make_cfg("INPUT.FORMAT", order, *same), name="a model", mean=MEAN, std=STD
        )
        assert (conversion(image) is image) == unchanged
        assert list(conversion.state_dict()) == []


@pytest.mark.parametrize(
    "opts, warns",
    [
        ((), False),  # Detectron2's own statistics: nobody set them
        (("INPUT.FORMAT", "RGB"), False),
        (("MODEL.PIXEL_STD", [58.0, 57.0, 57.0]), True),
        # The model's own, in the order of BGR images.
        (("MODEL.PIXEL_MEAN", [153.0, 102.0, 51.0], "MODEL.PIXEL_STD", [76.5, 51.0, 25.5]), False),
        # The same in the order of RGB, which INPUT.FORMAT contradicts.
        (("MODEL.PIXEL_MEAN", [51.0, 102.0, 153.0], "MODEL.PIXEL_STD", [25.5, 51.0, 76.5]), True),
    ],
)
def test_warning_where_the_config_contradicts(
    opts: Any, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        build_input_conversion(make_cfg(*opts), name="a model", mean=MEAN, std=STD)
    assert ("contradict a model, whose weights expect RGB images" in caplog.text) == warns
