"""Every YAML loads, its launch line names it, and the model it describes builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.modeling import build_model

from ssod.engine.plain_student import build_core
from ssod.engine.setup import load_config
from ssod.methods import build_methods, learns_from_unlabeled

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
RUNS = [path for path in CONFIGS if not Path(path).name.startswith("base")]


@pytest.mark.parametrize("path", RUNS)
def test_config_builds(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = load_config(path)
    cfg.MODEL.DEVICE = "cpu"
    core = build_core(cfg, build_model(cfg), build_methods(cfg))
    assert bool(cfg.SSOD.METHODS) == bool(len(core.method_list))
    assert bool(cfg.DATASETS.UNLABELED) == learns_from_unlabeled(cfg)
    assert cfg.SSOD.BURN_IN_STEPS < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("path", RUNS)
def test_first_line_launches_it(path: str) -> None:
    first = (ROOT / path).read_text().splitlines()[0]
    commands = ("train_net.py", "-m ssod.tools.run_phases")
    assert first.startswith(tuple(f"# python {name} --config-file {path}" for name in commands))


def test_output_folders_differ() -> None:
    folders = [load_config(str(ROOT / path)).OUTPUT_DIR for path in RUNS]
    assert len(set(folders)) == len(folders)


def test_hyperparameters_of_the_published_hosts() -> None:
    """SPEC of the common base: what the papers print, typed by hand."""
    expected = {
        "configs/coco_standard/unbiased_teacher_R_50_FPN_1pct.yaml": (
            180_000,
            2_000,
            4.0,
            0.7,
            0.9996,
            "focal",
        ),
        "configs/coco_standard/mean_teacher_R_50_FPN_1pct.yaml": (
            180_000,
            2_000,
            2.0,
            0.7,
            0.9996,
            "cross_entropy",
        ),
        "configs/voc/unbiased_teacher_R_50_FPN.yaml": (180_000, 30_000, 2.0, 0.7, 0.999, "focal"),
        "configs/coco_additional/unbiased_teacher_R_50_FPN.yaml": (
            360_000,
            90_000,
            2.0,
            0.7,
            0.9996,
            "focal",
        ),
    }
    for path, values in expected.items():
        cfg = load_config(str(ROOT / path))
        found = (
            cfg.SOLVER.MAX_ITER,
            cfg.SSOD.BURN_IN_STEPS,
            cfg.SSOD.UNSUP_LOSS_WEIGHT,
            cfg.SSOD.SCORE_THRESHOLD,
            cfg.SSOD.EMA.DECAY,
            cfg.SSOD.ROI_CLS_LOSS,
        )
        assert found == values, path
        assert cfg.SSOD.STRONG_AUGMENTATION.NOISE_SIGMA == 0.0
