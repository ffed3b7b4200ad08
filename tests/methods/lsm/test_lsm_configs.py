"""What the paper prints about its settings, typed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod.engine.setup import load_config

CONFIGS = Path(__file__).parents[3] / "configs"
LSM = ("ScoreThreshold", "PIM", "SelfDistillation")


@pytest.mark.parametrize(
    "path, steps, burn_in, weight",
    [
        ("coco_standard/lsm_R_50_FPN_1pct", 180_000, 20_000, 4.0),
        ("coco_standard/lsm_R_50_FPN_10pct", 180_000, 20_000, 4.0),
        ("coco_additional/lsm_R_50_FPN", 360_000, 90_000, 2.0),
        ("coco_imagenet/lsm_R_50_FPN", 360_000, 90_000, 2.0),
    ],
)
def test_published_settings(path: str, steps: int, burn_in: int, weight: float) -> None:
    cfg = load_config(str(CONFIGS / f"{path}.yaml"))
    assert tuple(cfg.SSOD.METHODS) == LSM
    assert (cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS) == (steps, burn_in)
    assert (cfg.SSOD.SCORE_THRESHOLD, cfg.SSOD.PIM.SCORE_THRESHOLD) == (0.7, 0.5)
    assert cfg.SSOD.UNSUP_LOSS_WEIGHT == weight
    assert cfg.SSOD.STRONG_AUGMENTATION.NOISE_SIGMA == 5.0
    assert cfg.SSOD.AREA_MINING.MIN_AREA == 96 * 96


def test_rows_of_the_ablations() -> None:
    folder = CONFIGS / "coco_standard" / "lsm_ablation"
    levels = {
        path.stem: tuple(load_config(str(path)).SSOD.PIM.IN_FEATURES)
        for path in sorted(folder.glob("p*_p*_1pct.yaml"))
    }
    assert levels == {
        "p2_p3_1pct": ("p2", "p3"),
        "p2_p4_1pct": ("p2", "p4"),
        "p3_p4_1pct": ("p3", "p4"),
    }
    for percent in (2, 5, 10):
        cfg = load_config(str(CONFIGS / "coco_standard" / f"lsm_R_50_FPN_{percent}pct.yaml"))
        for name in ("labeled", "unlabeled"):
            file = cfg.SSOD.DATASETS[f"coco_{name}"].ANNOTATIONS
            assert file.endswith(f"coco_{percent}pct_fold0_{name}.json")
