"""PIM's classifier at the beginning of mutual learning."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest
import torch
from detectron2.config import CfgNode

from detr_case import detr_cfg
from runs import train
from ssod.methods.lsm.method import PIM, StartAsMain
from tiny import tiny_cfg, with_squares

METHODS = ("ScoreThreshold", "PIM")
STEPS, BURN_IN = 4, 2


def short(cfg: CfgNode) -> CfgNode:
    cfg.merge_from_list(["SOLVER.MAX_ITER", STEPS, "SSOD.BURN_IN_STEPS", BURN_IN])
    cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", 0.02, "SSOD.PIM.SCORE_THRESHOLD", 0.005])
    cfg.merge_from_list(["SSOD.PSEUDO_SCORE_FLOOR", 0.001, "SOLVER.CHECKPOINT_PERIOD", BURN_IN + 1])
    return cfg


@pytest.mark.parametrize("family", ["Faster R-CNN", "Deformable DETR"])
def test_it_is_a_copy_of_the_main_branchs(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    equal: List[bool] = []
    copy = StartAsMain.before_step

    def watched(hook: StartAsMain) -> None:
        copy(hook)
        main = hook.main.state_dict()
        equal.append(all(torch.equal(v, main[k]) for k, v in hook.own.state_dict().items()))

    monkeypatch.setattr(StartAsMain, "before_step", watched)
    cfg = tiny_cfg() if family == "Faster R-CNN" else detr_cfg("refine")
    cfg = short(with_squares(cfg, squares, tmp_path, METHODS))
    train(cfg)
    assert equal[BURN_IN:] == [True, False] and not equal[BURN_IN - 1]
    # A resumed run does not start again.
    equal.clear()
    (tmp_path / "last_checkpoint").write_text(f"model_{BURN_IN:07d}.pth")
    train(cfg, resume=True)
    assert not any(equal)


def test_weights_of_sigmoids_are_not_copied() -> None:
    cfg = tiny_cfg()
    cfg.SSOD.METHODS = METHODS
    assert PIM.from_config(cfg)["copy_at"] == cfg.SSOD.BURN_IN_STEPS
    cfg.SSOD.METHODS = (*METHODS, "EQLv2")
    assert PIM.from_config(cfg)["copy_at"] is None
