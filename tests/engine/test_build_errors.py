"""Errors of building a model name the config's keys."""

from __future__ import annotations

from typing import Any

import pytest

from ssod.engine.loading import build_detector
from ssod.errors import UserError
from tiny import tiny_cfg


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res6"]),
            "^MODEL.FPN.IN_FEATURES: there is no feature 'res6'; the features at this place are res2, res3, res4, res5.$",
        ),
        (
            ("MODEL.RPN.IN_FEATURES", ["p2", "p9"]),
            "^MODEL.RPN.IN_FEATURES: there is no feature 'p9'; .* are p2, p3, p4, p5, p6.$",
        ),
        (
            ("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "res3"]),
            "^MODEL.ROI_HEADS.IN_FEATURES: there is no feature 'res3'; .* are p2, p3",
        ),
        (
            ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbon"),
            "no 'build_timm_fpn_backbon' among the BACKBONE parts: did you mean build_timm_fpn_backbone",
        ),
        (("MODEL.META_ARCHITECTURE", "Nothing"), "no 'Nothing' among the META_ARCH parts"),
        (("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNHead"), "did you mean FastRCNNConvFCHead"),
    ],
)
def test_names_that_do_not_exist(opts: Any, message: str) -> None:
    cfg = tiny_cfg()
    cfg.merge_from_list(list(opts))
    with pytest.raises(UserError, match=message) as caught:
        build_detector(cfg)
    assert "\n" not in str(caught.value)
