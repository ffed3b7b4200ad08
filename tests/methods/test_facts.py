"""The facts that methods declare: groups, config keys, the lowest score that they select."""

from __future__ import annotations

import logging
from typing import Any, Tuple

import pytest
import torch
from detectron2.config import CfgNode, get_cfg

import runs  # noqa: F401  (registers all methods)
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY, Method, build_methods
from ssod.methods.composition import shared_group
from ssod.methods.selection import main_threshold
from steps import bare_context, cfg_with
from tiny import tiny_cfg

KINDS = [kind for _, kind in METHOD_REGISTRY]


def config(*names: str, **keys: Any) -> CfgNode:
    own = [word for k, v in keys.items() for word in (f"SSOD.{k.replace('__', '.')}", v)]
    return cfg_with(names, *own)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_keys_stand_where_a_method_says(kind: Any) -> None:
    cfg = get_cfg()
    cfg.SSOD = CfgNode({"SCORE_THRESHOLD": 0.7, "PSEUDO_SCORE_FLOOR": 0.05})
    before = set(cfg.SSOD)
    kind.add_config(cfg)
    nodes = {key for key in set(cfg.SSOD) - before if isinstance(cfg.SSOD[key], CfgNode)}
    assert nodes == ({kind.config_key} if kind.config_key else set())
    assert isinstance(kind.selection_floor(cfg), float)


def test_each_excluded_group_has_a_member() -> None:
    """A misspelt name would exclude nothing."""
    named = {group for kind in KINDS for group in kind.groups}
    assert {group for kind in KINDS for group in kind.excludes} <= named


def test_no_method_lists_its_opponents() -> None:
    assert not [kind.__name__ for kind in KINDS if hasattr(kind, "conflicts")]


def test_required_methods_exist() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert {name for kind in KINDS for name in kind.requires} <= names


@pytest.mark.parametrize(
    "names, message",
    [
        (("ScoreThreshold", "GradientThresholding"), "^ScoreThreshold and GradientThresholding "),
        (("SoftTeacher", "PseCo"), "^SoftTeacher and PseCo cannot be combined: remove one"),
        (
            ("ScoreThreshold", "MLC", "SelfDistillation", "PIM"),
            r"^MLC and PIM \(for SelfDistillation\) cannot be combined",
        ),
        (("ScoreThreshold", "SelfDistillation"), "^SelfDistillation needs PIM: add it"),
    ],
)
def test_refused_in_one_line(names: Tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        build_methods(config(*names))
    assert "\n" not in str(refused.value)


def test_groups_exclude_either_way_round() -> None:
    class One(Method):
        groups = ("a",)

    class Other(Method):
        excludes = ("a",)

    assert shared_group(One, Other) == shared_group(Other, One) == "a"
    assert shared_group(One, One) is None and shared_group(Other, Other) is None


# ---------------------------------------------------------------- former keys


def test_former_key_works_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("PseCo", PSE_CO__SCORE_THRESHOLD=0.6)
    cfg.freeze()
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        built: Any = build_methods(cfg)["PseCo"]
        assert built.score_threshold == 0.6 and built.candidate_iou == 0.4
    lines = [r.getMessage() for r in caplog.records if "PSE_CO" in r.getMessage()]
    assert lines == ["SSOD.PSE_CO is now called SSOD.PSECO: rename it in your config."]
    assert cfg.SSOD.PSECO.SCORE_THRESHOLD == 0.5 and cfg.is_frozen()


def test_former_key_survives_a_dump(tmp_path: Any) -> None:
    (tmp_path / "run.yaml").write_text(config("PseCo", PSE_CO__TOP_CANDIDATES=3).dump())
    cfg = tiny_cfg()
    cfg.merge_from_file(str(tmp_path / "run.yaml"))
    assert build_methods(cfg)["PseCo"].top_candidates == 3


# ---------------------------------------------------------------- the main branch's threshold


@pytest.mark.parametrize(
    "names, expected",
    [
        (("ScoreThreshold",), ("SSOD.SCORE_THRESHOLD", 0.7)),
        (("SoftTeacher",), ("SSOD.SOFT_TEACHER.SCORE_THRESHOLD", 0.9)),
        (("PseCo",), ("SSOD.PSECO.SCORE_THRESHOLD", 0.5)),
        (("TwoStageFilter", "SoftTeacher"), ("SSOD.SOFT_TEACHER.SCORE_THRESHOLD", 0.9)),
        (("GradientThresholding",), ("SSOD.GRADIENT_THRESHOLDING.LOW", 0.5)),
        (
            ("TwoStageFilter", "GradientThresholding"),
            ("SSOD.TWO_STAGE_FILTER.SCORE_THRESHOLD", 0.7),
        ),
        (("LabelMatchThresholds",), ("SSOD.PSEUDO_SCORE_FLOOR", 0.05)),
        (("AreaMining",), ("SSOD.SCORE_THRESHOLD", 0.7)),
    ],
)
def test_main_threshold(names: Tuple[str, ...], expected: Tuple[str, float]) -> None:
    assert main_threshold(config(*names)) == expected


@pytest.mark.parametrize(
    "method, per_class",
    [
        ("GradientThresholding", True),
        ("LabelMatchThresholds", True),
        ("ScoreThreshold", False),
    ],
)
def test_upper_end_of_pim_is_the_hosts(method: str, per_class: bool) -> None:
    """Classes 0 to 2 and background; a host with class thresholds has one t for each class."""
    methods: Any = build_methods(config(method, "PIM"))
    context = bare_context(methods=dict(methods.items()))
    if per_class:
        methods[method].thresholds = lambda context: torch.tensor([0.6, 0.9, 0.04])
    found = methods["PIM"].upper_scores(torch.tensor([0, 1, 2, 3]), context)
    if not per_class:
        assert found == 0.7
        return
    lowest = main_threshold(config(method))[1]
    assert found[:3].tolist() == pytest.approx([0.6, 0.9, lowest])
    # `update` sees the thresholds that this step has trained with, whatever the host has learnt
    # since.
    methods[method].thresholds = lambda context: torch.ones(3)
    assert methods["PIM"].upper_scores(torch.tensor([0]), context).tolist() == pytest.approx([0.6])


def test_pim_still_needs_room_below_a_fixed_threshold() -> None:
    with pytest.raises(UserError, match="SSOD.PIM.SCORE_THRESHOLD is 0.5.*PSECO.SCORE_THRESHOLD"):
        build_methods(config("PseCo", "PIM"))
