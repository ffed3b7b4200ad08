"""Whole runs of the region families: resumed, accumulated, in half precision, exported, timed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor

from region_rig import KEYS
from runs import digest, method_cfg, state_of, train
from ssod.benchmark.bench import Bench
from ssod.deploy.plain import export
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from tiny import make_image

NEW = ("Cascade R-CNN", "Mask R-CNN", "Cascade Mask R-CNN")
BOTH = "Cascade Mask R-CNN"
METHODS = ("ScoreThreshold", "PseudoBoxRegression")


def family_cfg(
    squares: Path, output: Path, family: str, steps: int, names: Tuple[str, ...] = METHODS
) -> CfgNode:
    cfg = method_cfg(squares, output, names, steps)
    cfg.merge_from_list(KEYS[family])
    return cfg


def highest(trainer: SSODTrainer, name: str) -> float:
    return max(value for value, _ in trainer.storage.history(name).values())


@pytest.mark.trains
@pytest.mark.parametrize("family", NEW)
def test_resumes_to_the_bit(squares: Path, tmp_path: Path, family: str) -> None:
    whole = train(family_cfg(squares, tmp_path / "whole", family, 5))
    cfg = family_cfg(squares, tmp_path / "parts", family, 5)
    train(cfg)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts = train(cfg, resume=True)
    assert parts.start_iter == 2
    assert digest(state_of(whole)) == digest(state_of(parts))
    assert highest(whole, "pseudo/boxes_per_image") > 0
    if "Mask" in family:
        assert all(row.has("gt_masks") for row in whole.core.last_pseudo.instances)
        assert {"loss_mask", "loss_mask_unlabeled"} <= set(whole.storage.histories())
    if "Cascade" in family:
        assert highest(whole, "loss_box_reg_stage2_unlabeled") > 0


@pytest.mark.parametrize(
    "keys",
    [
        ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"],
        ["SOLVER.GRADIENT_ACCUMULATION_STEPS", 2],
        ["SSOD.ALTERNATE_STREAMS", True, "SOLVER.GRADIENT_ACCUMULATION_STEPS", 2],
        ["SSOD.ROI_CLS_LOSS", "focal"],
    ],
)
def test_trains_with(squares: Path, tmp_path: Path, keys: list) -> None:
    cfg = family_cfg(squares, tmp_path / "run", BOTH, 3)
    cfg.merge_from_list(keys)
    trainer = train(cfg)
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())


@pytest.mark.parametrize("family", NEW)
def test_export_is_plain_detectron2(squares: Path, tmp_path: Path, family: str) -> None:
    names = ("TwoStageFilter", "UncertainNegatives")  # with heads of their own
    cfg = family_cfg(squares, tmp_path / "run", family, 2, names)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    trainer = train(cfg)
    paths = export(cfg, str(tmp_path / "run" / "model_final.pth"), str(tmp_path / "out"))
    plain = get_cfg()
    plain.merge_from_file(paths[0])
    assert "SSOD" not in plain
    image, _ = make_image(np.random.default_rng(5))
    row = {"image": torch.from_numpy(image.transpose(2, 0, 1).astype("float32"))}
    with torch.no_grad():
        expected = trainer.core.teacher([{**row, "height": 64, "width": 64}])[0]["instances"]
    found = DefaultPredictor(plain)(image)["instances"]
    assert len(found) == len(expected) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert found.has("pred_masks") == ("Mask" in family)
    if found.has("pred_masks"):
        assert torch.equal(found.pred_masks, expected.pred_masks)
    weights = torch.load(paths[1], weights_only=True)["model"]
    assert not [key for key in weights if "ssod_heads" in key or "embedding" in key]


def test_the_lower_bound_trains_masks_too(squares: Path, tmp_path: Path) -> None:
    bench = Bench(family_cfg(squares, tmp_path / "run", BOTH, 3), str(tmp_path / "bench"))
    bench.step(split=False)
    found = bench.lower_bound()
    assert {"student forward", "backward", "teacher", "total"} == set(found)


def test_gradients_of_a_chosen_stage(squares: Path, tmp_path: Path) -> None:
    """The matrix of the last stage is another one than the first's; a fourth stage is refused."""
    matrices = []
    for stage in (0, 2):
        output = tmp_path / str(stage)
        cfg = family_cfg(squares, output, "Cascade R-CNN", 3, ("GradientReweighting",))
        cfg.SSOD.GRADIENT_REWEIGHTING.CASCADE_STAGE = stage
        method: Any = train(cfg).core.methods["GradientReweighting"]
        matrices.append(method.balance.gradients)
    assert matrices[0].abs().sum() > 0 and not torch.equal(*matrices)
    cfg.SSOD.GRADIENT_REWEIGHTING.CASCADE_STAGE = 3
    with pytest.raises(UserError, match="CASCADE_STAGE is 3: the first stage is 0"):
        SSODTrainer(cfg)


@pytest.mark.parametrize("name", ["EQLv2", "C2AM", "DeFRCN"])
def test_heads_of_their_own_need_one_stage(squares: Path, tmp_path: Path, name: str) -> None:
    cfg = family_cfg(squares, tmp_path, "Cascade R-CNN", 2, (name,))
    with pytest.raises(UserError, match="a box head of one stage") as error:
        SSODTrainer(cfg)
    assert "\n" not in str(error.value) and "Faster R-CNN and Mask R-CNN" in str(error.value)
