"""MLC and area mining, and what configs of LSM are refused."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import pytest

from lsm_rig import BOX, FULL, OTHER, Rig, Row, config, found_rows
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY, build_methods
from ssod.methods.lsm.method import PIM
from ssod.methods.selection import main_threshold
from ssod.structures import PseudoLabels
from steps import bare_context, core_of
from tiny import make_sample


def test_mlc_is_the_main_branch_at_half_size() -> None:
    found = [[(BOX, 1, 0.9)], [(OTHER, 2, 0.6)]]
    rig = Rig(config("ScoreThreshold", "MLC", "PseudoBoxRegression"), found)
    losses = rig.step(False)
    assert not list(rig.core.methods.parameters())  # no classifier of its own
    assert losses["loss_box_reg_mlc"] > 0
    rig.core.zero_grad()
    (losses["loss_cls_mlc"] + losses["loss_box_reg_mlc"]).backward()
    assert rig.core.student.roi_heads.box_predictor.cls_score.weight.grad.any()
    context = rig.core.context(rig.batch)
    branch = rig.core.methods["MLC"].run(rig.outputs, context)  # type: ignore[operator]
    # Only the label that passes t: the second image has no foreground.
    assert [bool((roi.gt_classes < 3).any()) for roi in branch.rois] == [True, False]


def test_mlc_regresses_where_the_host_does() -> None:
    """Unbiased Teacher's boxes do not, and Soft Teacher's do where its teacher is steady."""
    found: List[List[Row]] = [[(BOX, 1, 0.95)], []]
    losses = Rig(config("ScoreThreshold", "MLC"), found).step(False)
    assert losses["loss_cls_mlc"] > 0 and losses["loss_box_reg_mlc"] == 0
    for steady in (True, False):
        keys = {"SOFT_TEACHER__MAX_DEVIATION": 1e6 if steady else 0.0}
        losses = Rig(config("SoftTeacher", "MLC", **keys), found).step(False)
        assert bool(losses["loss_box_reg_mlc"] > 0) == steady


def test_area_mining_counts_pixels_of_the_file() -> None:
    cfg = config("AreaMining", AREA_MINING__MIN_AREA=400.0)
    method = build_methods(cfg)["AreaMining"]
    big, small = (0.0, 0, 41, 40), (0.0, 0, 40, 40)  # 410 and 400 square pixels of the file
    rows = [(small, 0, 0.7), (small, 0, 0.69), (big, 0, 0.51), (big, 0, 0.5)]
    sample = make_sample(0, False)
    sample.geometry.matrix = np.array([[-2.0, 0, 64], [0, 2.0, 0]])  # twice the size, mirrored
    context: Any = bare_context([sample])
    pseudo = PseudoLabels.from_detections([found_rows(rows)])
    found = method.refine(pseudo, context)  # type: ignore[operator]
    assert found.instances[0].selected.tolist() == [True, False, True, False]
    empty = PseudoLabels.from_detections([found_rows([])])
    assert method.refine(empty, context).instances[0].selected.tolist() == []


@pytest.mark.parametrize(
    "methods, keys, message",
    [
        (
            FULL,
            {"PIM__SCORE_THRESHOLD": 0.7},
            "SSOD.PIM.SCORE_THRESHOLD is 0.7.*SCORE_THRESHOLD is 0.7",
        ),
        (
            FULL,
            {"SCORE_THRESHOLD": 0.4},
            "SSOD.PIM.SCORE_THRESHOLD is 0.5.*SSOD.SCORE_THRESHOLD is 0.4",
        ),
        (FULL, {"PIM__SCORE_THRESHOLD": -0.1}, "must be the lower one"),
        (("ScoreThreshold", "SelfDistillation"), {}, "SelfDistillation needs PIM"),
        (("ScoreThreshold", "PIM", "MLC"), {}, "cannot be combined"),
        (("ScoreThreshold", "AreaMining"), {}, "cannot be combined"),
        (
            ("AreaMining",),
            {"AREA_MINING__LOW_THRESHOLD": 0.8},
            "SSOD.AREA_MINING.LOW_THRESHOLD is 0.8",
        ),
    ],
)
def test_wrong_configs_are_named_in_one_line(
    methods: Tuple[str, ...], keys: Dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_methods(config(*methods, **keys))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [(), ("p5",), ("p2", "res3")])
def test_unusable_levels_are_refused(names: Tuple[str, ...]) -> None:
    cfg = config(*FULL, PIM__IN_FEATURES=names)
    with pytest.raises(UserError, match="SSOD.PIM.IN_FEATURES is .*name some of p2, p3, p4"):
        core_of(cfg)


def test_main_threshold_is_that_of_the_selecting_method() -> None:
    assert main_threshold(config(*FULL, SCORE_THRESHOLD=0.8)) == ("SSOD.SCORE_THRESHOLD", 0.8)
    assert main_threshold(config("AreaMining")) == ("SSOD.SCORE_THRESHOLD", 0.7)
    if "TwoStageFilter" in METHOD_REGISTRY:
        cfg = config("TwoStageFilter", "PIM", TWO_STAGE_FILTER__SCORE_THRESHOLD=0.9)
        assert main_threshold(cfg) == ("SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD", 0.9)
        pim = build_methods(cfg)["PIM"]
        assert isinstance(pim, PIM) and pim.main_threshold == 0.9
