"""The paper's settings, typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import pytest

from ssod.engine.setup import load_config
from ssod.methods.selection import main_threshold

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


@pytest.mark.parametrize(
    "path, host, steps, burn_in, weight, images",
    [
        (
            "coco_standard/lsm_soft_teacher_R_50_FPN_1pct",
            "SoftTeacher",
            180_000,
            20_000,
            4.0,
            (8, 32),
        ),
        (
            "coco_standard/lsm_soft_teacher_R_50_FPN_5pct",
            "SoftTeacher",
            180_000,
            20_000,
            4.0,
            (8, 32),
        ),
        ("coco_standard/lsm_pseco_R_50_FPN_1pct", "PseCo", 180_000, 20_000, 2.0, (8, 32)),
        ("coco_standard/lsm_pseco_R_50_FPN_10pct", "PseCo", 180_000, 20_000, 2.0, (8, 32)),
        (
            "coco_additional/lsm_soft_teacher_R_50_FPN",
            "SoftTeacher",
            360_000,
            90_000,
            2.0,
            (32, 32),
        ),
        ("coco_additional/lsm_pseco_R_50_FPN", "PseCo", 360_000, 90_000, 2.0, (32, 32)),
    ],
)
def test_other_hosts(
    path: str, host: str, steps: int, burn_in: int, weight: float, images: Tuple[int, int]
) -> None:
    cfg = load_config(str(CONFIGS / f"{path}.yaml"))
    assert tuple(cfg.SSOD.METHODS) == (host, "PIM", "SelfDistillation")
    assert (cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS) == (steps, burn_in)
    assert (main_threshold(cfg)[1], cfg.SSOD.PIM.SCORE_THRESHOLD) == (0.7, 0.5)
    assert cfg.SSOD.UNSUP_LOSS_WEIGHT == weight and cfg.SSOD.STRONG_AUGMENTATION.NOISE_SIGMA == 5.0
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SSOD.IMS_PER_BATCH_UNLABELED) == images
    # PIM's maps are those one level finer than the host's, all of them.
    names = ["p3", "p4", "p5", "p6"] if host == "PseCo" else ["p2", "p3", "p4", "p5"]
    assert cfg.MODEL.ROI_HEADS.IN_FEATURES == names
    below = ["p2", *names[:-1]] if host == "PseCo" else names[:-1]
    assert list(cfg.SSOD.PIM.IN_FEATURES) == below


def test_stac() -> None:
    """Table 4: the host's threshold is STAC's, PIM's main branch has LSM's."""
    found = {}
    for name in ("stac", "mlc_stac", "pim_stac"):
        cfg = load_config(str(CONFIGS / "coco_imagenet" / f"{name}_R_50_FPN.yaml"))
        assert cfg.SSOD.PSEUDO_LABELS and cfg.SSOD.BURN_IN_STEPS == 0
        assert tuple(cfg.SSOD.METHODS[:2]) == ("ScoreThreshold", "PseudoBoxRegression")
        found[name] = (tuple(cfg.SSOD.METHODS[2:]), cfg.SSOD.SCORE_THRESHOLD)
    assert found == {
        "stac": ((), 0.9),
        "mlc_stac": (("MLC",), 0.9),
        "pim_stac": (("PIM",), 0.7),
    }


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
    rows = [
        *(("lsm", percent) for percent in (1, 2, 5, 10)),
        *(("lsm_soft_teacher", percent) for percent in (1, 5, 10)),
        *(("lsm_pseco", percent) for percent in (1, 2, 5, 10)),
    ]
    for kind, percent in rows:
        cfg = load_config(str(CONFIGS / "coco_standard" / f"{kind}_R_50_FPN_{percent}pct.yaml"))
        for name in ("labeled", "unlabeled"):
            file = cfg.SSOD.DATASETS[f"coco_{name}"].ANNOTATIONS
            assert file.endswith(f"coco_{percent}pct_fold0_{name}.json")
