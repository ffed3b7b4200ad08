"""The configs against the numbers that the paper prints, typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
from detectron2.config import CfgNode

from ssod.engine.setup import load_config

CONFIGS = Path(__file__).parents[3] / "configs"


def load(name: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"))


# Steps, burn-in, EMA (SPEC's common base: 0.999 on VOC).
SETTINGS: Dict[str, Tuple[int, int, float]] = {
    "coco_standard/acrst_R_50_FPN_0.5pct": (180_000, 2_500, 0.9996),
    "coco_standard/acrst_R_50_FPN_1pct": (180_000, 5_000, 0.9996),
    "coco_standard/acrst_R_50_FPN_2pct": (180_000, 10_000, 0.9996),
    "coco_standard/acrst_R_50_FPN_5pct": (180_000, 20_000, 0.9996),
    "coco_standard/acrst_R_50_FPN_10pct": (180_000, 40_000, 0.9996),
    "coco_additional/acrst_R_50_FPN": (270_000, 90_000, 0.9996),
    "voc/acrst_R_50_FPN": (36_000, 12_000, 0.999),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_published_hyperparameters(name: str) -> None:
    cfg = load(name)
    assert (cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS, cfg.SSOD.EMA.DECAY) == SETTINGS[name]
    assert cfg.SSOD.METHODS == ("TwoStageFilter", "CropBank")
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SSOD.IMS_PER_BATCH_UNLABELED) == (32, 32)
    assert cfg.SSOD.UNSUP_LOSS_WEIGHT == 2.0
    assert cfg.SSOD.ROI_CLS_LOSS == "cross_entropy"
    assert cfg.SSOD.STRONG_AUGMENTATION.NOISE_SIGMA == 5.0
    assert cfg.SOLVER.BASE_LR == 0.01 and min(cfg.SOLVER.STEPS) > 0.99 * cfg.SOLVER.MAX_ITER
    filtered, bank = cfg.SSOD.TWO_STAGE_FILTER, cfg.SSOD.CROP_BANK
    assert (filtered.SCORE_THRESHOLD, filtered.IMAGE_THRESHOLD) == (0.7, 0.2)
    assert (filtered.FOCAL_GAMMA, filtered.FOCAL_ALPHA, filtered.LOSS_WEIGHT) == (1.0, 0.25, 1.0)
    assert filtered.MODE == "filter"
    assert (bank.CLASS_SAMPLING, bank.BETA) == ("affr", 2.0)
    assert (bank.MIN_INSTANCES, bank.MAX_INSTANCES, bank.MIN_VISIBLE_FRACTION) == (1, 5, 0.0)
    assert (bank.SCALE, bank.FLIP_PROB) == ((0.5, 1.5), 0.5)
    assert (bank.REFRESH, bank.REFRESH_PERIOD) == ("on_visit", 5_000)
    assert bank.BANKS == ("labeled", "pseudo") and bank.PASTE_ON == ("unlabeled",)
    assert bank.SELECTIVE_SUPERVISION


@pytest.mark.parametrize("percent", ["0.5", "1", "2", "5", "10"])
def test_splits_have_the_right_share(percent: str) -> None:
    declared = load(f"coco_standard/acrst_R_50_FPN_{percent}pct").SSOD.DATASETS
    for kind in ("labeled", "unlabeled"):
        path = declared[f"coco_{kind}"].ANNOTATIONS
        assert path == f"datasets/coco/splits/coco_{percent}pct_fold0_{kind}.json"


# The rows of Tables 4, 5 and 6: methods, class sampling, selective supervision ("-": no CropBank).
ROWS: Dict[str, Tuple[Any, ...]] = {
    "two_stage": (("TwoStageFilter",), "-", "-"),
    "two_stage_mine": (("TwoStageFilter",), "-", "-"),
    "fbr": (("ScoreThreshold", "CropBank"), "instances", False),
    "fbr_affr": (("ScoreThreshold", "CropBank"), "affr", False),
    "fbr_affr_two_stage": (("TwoStageFilter", "CropBank"), "affr", False),
    "stac": (("ScoreThreshold", "PseudoBoxRegression"), "-", "-"),
    "stac_crop_bank": (("ScoreThreshold", "PseudoBoxRegression", "CropBank"), "affr", False),
    "stac_mixup_mosaic": (("ScoreThreshold", "PseudoBoxRegression", "MixUpMosaic"), "-", "-"),
}


@pytest.mark.parametrize("folder", ["digit_scenes/acrst", "coco_standard/acrst_ablation"])
@pytest.mark.parametrize("row", ROWS)
def test_rows_of_the_tables(folder: str, row: str) -> None:
    shared = (folder, row) == ("digit_scenes/acrst", "stac")
    cfg = load("digit_scenes/stac" if shared else f"{folder}/{row}")
    bank = cfg.SSOD.CROP_BANK
    with_bank = "CropBank" in cfg.SSOD.METHODS
    found = (bank.CLASS_SAMPLING, bank.SELECTIVE_SUPERVISION) if with_bank else ("-", "-")
    assert (cfg.SSOD.METHODS, *found) == ROWS[row]
    assert (cfg.SSOD.TWO_STAGE_FILTER.MODE == "mine") == (row == "two_stage_mine")
    assert bool(cfg.SSOD.PSEUDO_LABELS) == row.startswith("stac")
    host = "digit_scenes/mean_teacher" if "digit" in folder else f"{folder}/mean_teacher"
    expected = load(host)
    assert (cfg.SSOD.UNSUP_LOSS_WEIGHT, cfg.SSOD.ROI_CLS_LOSS) == (2.0, "cross_entropy")
    assert cfg.SOLVER == expected.SOLVER and cfg.DATASETS == expected.DATASETS
    assert cfg.SSOD.BURN_IN_STEPS == (0 if row.startswith("stac") else expected.SSOD.BURN_IN_STEPS)


def test_digits_are_never_mirrored() -> None:
    paths = [CONFIGS / "digit_scenes/acrst.yaml", *(CONFIGS / "digit_scenes/acrst").glob("*.yaml")]
    for path in paths:
        cfg = load_config(str(path))
        assert cfg.INPUT.RANDOM_FLIP == "none", path
        assert "CropBank" not in cfg.SSOD.METHODS or cfg.SSOD.CROP_BANK.FLIP_PROB == 0.0, path


def test_the_supervised_row_has_no_unlabelled_image() -> None:
    cfg = load("digit_scenes/acrst/supervised_pasted")
    bank = cfg.SSOD.CROP_BANK
    assert cfg.DATASETS.UNLABELED == () and cfg.SSOD.METHODS == ("CropBank",)
    assert (bank.BANKS, bank.PASTE_ON) == (("labeled",), ("labeled",))
    assert bank.CLASS_SAMPLING == "uniform"
