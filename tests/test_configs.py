"""Every YAML loads, its launch line names it, the model it describes builds, and its numbers are
the papers'.

ACRST's, LSM's and CI-SSOD's own keys are compared in `tests/methods/<paper>`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ssod.engine.setup import load_config
from ssod.engine.teacher_student import TeacherStudent
from ssod.methods import build_methods, learns_from_unlabeled
from ssod.tools.config_table import read_published

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
RUNS = [path for path in CONFIGS if not Path(path).name.startswith("base")]
MEASURED_HERE = ("configs/digit_scenes", "configs/bccd", "configs/cards", "configs/nuclei")
PERCENTS = ("0.5", "1", "2", "5", "10")
_built = set()


@lru_cache(maxsize=None)
def load(path: str) -> CfgNode:
    """Shared by the tests: change a clone."""
    return load_config(str(ROOT / path))


def paper(name: str) -> CfgNode:
    return load(f"configs/{name}.yaml")


@pytest.mark.parametrize("path", RUNS)
def test_config_builds(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    cfg = load(path).clone()
    assert bool(cfg.DATASETS.UNLABELED) == learns_from_unlabeled(cfg)
    assert cfg.SSOD.BURN_IN_STEPS < cfg.SOLVER.MAX_ITER
    methods = build_methods(cfg)
    assert bool(cfg.SSOD.METHODS) == bool(len(methods))
    # Rows that differ in their data or schedule alone have the same model; no memory is needed to
    # see that it builds.
    key = cfg.clone()
    key.SSOD.DATASETS, key.DATASETS, key.SOLVER, key.OUTPUT_DIR = (CfgNode(),) * 3 + ("",)
    key.SSOD.BURN_IN_STEPS, key.SSOD.PSEUDO_LABELS = 0, str(bool(cfg.SSOD.PSEUDO_LABELS))
    if key.dump() in _built:
        return
    _built.add(key.dump())
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        core = TeacherStudent.from_config(cfg, build_model(cfg), build_methods(cfg))
    assert len(core.method_list) == len(cfg.SSOD.METHODS)


@pytest.mark.parametrize("path", RUNS)
def test_first_line_launches_it(path: str) -> None:
    first = (ROOT / path).read_text().splitlines()[0]
    commands = ("train_net.py", "-m ssod.tools.run_phases", "-m ssod.tools.run_generations")
    assert first.startswith(tuple(f"# python {name} --config-file {path}" for name in commands))


def test_output_folders_differ() -> None:
    folders = [load(path).OUTPUT_DIR for path in RUNS]
    assert len(set(folders)) == len(folders)


def test_hyperparameters_of_the_published_hosts() -> None:
    """The common base against the numbers that the papers print, typed by hand."""
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
        cfg = load(path)
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


# SPEC of the results: what the papers print.
STANDARD = {
    "supervised": dict(zip(PERCENTS, ("6.83", "9.05", "12.70", "18.47", "23.86"))),
    "unbiased_teacher": dict(zip(PERCENTS, ("16.94", "20.75", "24.30", "28.27", "31.50"))),
    "acrst": dict(zip(PERCENTS, ("19.62", "26.07", "28.69", "31.35", "34.92"))),
    "lsm": {"1": "23.95", "2": "26.60", "5": "31.97", "10": "34.75"},
    "lsm_soft_teacher": {"1": "23.76", "5": "33.47", "10": "36.14"},
    "lsm_pseco": {"1": "24.17", "2": "28.96", "5": "34.21", "10": "37.33"},
}
PUBLISHED = {
    **{
        f"coco_standard/{row}_R_50_FPN_{percent}pct": f"AP {value}"
        for row, values in STANDARD.items()
        for percent, value in values.items()
    },
    "coco_additional/supervised_R_50_FPN": "AP 40.20",
    "coco_additional/unbiased_teacher_R_50_FPN": "AP 41.30",
    "coco_additional/acrst_R_50_FPN": "AP 42.79",
    "coco_additional/lsm_R_50_FPN": "AP 43.23",
    "coco_additional/lsm_soft_teacher_R_50_FPN": "AP 45.70",
    "coco_additional/lsm_pseco_R_50_FPN": "AP 47.01",
    "voc/supervised_R_50_FPN": "AP50 / AP 72.63 / 42.13",
    "voc/unbiased_teacher_R_50_FPN": "AP50 / AP 77.37 / 48.69",
    "voc/acrst_R_50_FPN": "AP50 / AP 78.16 / 50.12",
    "voc/lsm_R_50_FPN": "AP50 / AP 81.61 / 54.90",
    "coco_imagenet/unbiased_teacher_R_50_FPN": "AP 38.47",
    "coco_imagenet/lsm_R_50_FPN": "AP 39.87",
    "ci_ssod/soft_teacher_split1": "AP all / majority / minority 23.6 / 31.0 / 1.5",
    "ci_ssod/ci_ssod_split1": "AP all / majority / minority 26.5 / 30.7 / 13.9",
    "ci_ssod/ci_ssod_split2": "AP all / majority / minority 23.8 / 32.4 / 15.1",
    "ci_ssod/ci_ssod_objects365": "AP all / majority / minority 9.2 / 23.7 / 5.2",
    "ci_ssod/ci_ssod_lvis": "AP all / f / c / r 8.9 / 21.7 / 12.3 / 4.2",
    "multi_phase/voc07_to_voc12_R_50_FPN": "AP50 78.6",
    "multi_phase/co35_to_co80_R_50_FPN": "AP 34.8",
    "multi_phase/co115_to_co120_R_50_FPN": "AP 40.1",
    "multi_phase/co115_to_co120_R_101_FPN": "AP 42.2",
    "pudet/teacher_R_50_FPN": "AP 37.4",
    "pudet/self_distillation_R_50_FPN": "AP 38.4",
    "pudet/purified_118k_R_50_FPN": "AP 39.4 / 39.3 / 39.0 at SSOD.SCORE_THRESHOLD 0.5 / 0.7 / 0.9",
    "pudet/random_118k_R_50_FPN": "AP 37.7 / 37.9 at SSOD.SCORE_THRESHOLD 0.5 / 0.9",
    "pudet/random_1.3M_R_50_FPN": "AP 36.6 / 37.0 at SSOD.SCORE_THRESHOLD 0.5 / 0.9",
    "pudet/purified_236k_R_50_FPN": "AP 39.5 / 39.3 at SSOD.SCORE_THRESHOLD 0.5 / 0.9",
    "multi_phase/co35_to_co80_dd_R_50_FPN": "AP 35.2",
    "multi_phase/co115_to_co120_dd_R_50_FPN": "AP 40.3",
    "multi_phase/co115_to_co120_dd_R_101_FPN": "AP 42.3",
    "pudet/random_236k_R_50_FPN": "AP 37.4 / 38.0 / 38.2 at SSOD.SCORE_THRESHOLD 0.5 / 0.7 / 0.9",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_results(name: str) -> None:
    found = read_published(ROOT / "configs" / f"{name}.yaml")
    assert found is not None and found.values == PUBLISHED[name]


def test_every_config_says_what_was_published() -> None:
    for path in RUNS:
        found = read_published(ROOT / path)
        assert (found is None) == path.startswith(MEASURED_HERE), path


@pytest.mark.parametrize("row", STANDARD)
def test_shares_of_coco_standard(row: str) -> None:
    for percent in STANDARD[row]:
        cfg = paper(f"coco_standard/{row}_R_50_FPN_{percent}pct")
        kinds = ("labeled",) if row == "supervised" else ("labeled", "unlabeled")
        for kind in kinds:
            path = cfg.SSOD.DATASETS[f"coco_{kind}"].ANNOTATIONS
            assert path == f"datasets/coco/splits/coco_{percent}pct_fold0_{kind}.json"
        if row == "unbiased_teacher":
            found = (cfg.SOLVER.MAX_ITER, cfg.SSOD.BURN_IN_STEPS, cfg.SSOD.ROI_CLS_LOSS)
            assert found == (180_000, 2_000, "focal")


@pytest.mark.parametrize(
    "name, batch, rate, steps",
    [
        *((f"coco_standard/supervised_R_50_FPN_{p}pct", 32, 0.01, 180_000) for p in PERCENTS),
        ("coco_additional/supervised_R_50_FPN", 16, 0.02, 270_000),
        ("voc/supervised_R_50_FPN", 16, 0.01, 180_000),
    ],
)
def test_supervised_rows(name: str, batch: int, rate: float, steps: int) -> None:
    cfg = paper(name)
    assert cfg.SSOD.METHODS == () and cfg.DATASETS.UNLABELED == ()
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (
        batch,
        rate,
        steps,
    )
    assert not cfg.SSOD.STRONG_AUGMENTATION.ENABLED and not cfg.SSOD.LABELED_WEAK_VIEW
    assert (cfg.SSOD.ROI_CLS_LOSS, cfg.SSOD.EMA.DECAY) == ("cross_entropy", 0.0)


def test_pasting_with_hard_labels_is_the_same_on_blood_cells() -> None:
    """Only the data differ: sets, classes, sizes and flips."""
    ours, theirs = (
        load(f"configs/{name}.yaml") for name in ("digit_scenes/hard_labels", "bccd/best")
    )
    for key in ("TRAIN", "UNLABELED", "VAL", "TEST"):
        theirs.DATASETS[key] = ours.DATASETS[key]
    theirs.SSOD.DATASETS, theirs.OUTPUT_DIR = ours.SSOD.DATASETS, ours.OUTPUT_DIR
    theirs.MODEL.ROI_HEADS.NUM_CLASSES = 10
    theirs.INPUT.MAX_SIZE_TRAIN = theirs.INPUT.MAX_SIZE_TEST = 128
    theirs.INPUT.RANDOM_FLIP = "none"
    assert theirs.dump() == ours.dump()


def test_hyperparameters_of_multi_phase() -> None:
    for path in (path for path in RUNS if path.startswith("configs/multi_phase")):
        cfg = load(path)
        node = cfg.SSOD.UNCERTAIN_NEGATIVES
        assert (node.A, node.B, node.C1, node.C2) == (0.25, 50.0, 20.0, 14.0)
        assert (node.MODE, node.SIMILARITY_LOSS_WEIGHT) == ("full", 1.0)
        assert cfg.SSOD.MULTI_PHASE.PHASES == 2 and cfg.SSOD.MULTI_PHASE.INTERSECTION_IOU == 0.5
        methods = ("ScoreThreshold", "PseudoBoxRegression", "UncertainNegatives")
        assert cfg.SSOD.METHODS == (methods[:2] if "SSD300" in path else methods)
        assert (cfg.SSOD.UNSUP_LOSS_WEIGHT, cfg.SSOD.BURN_IN_STEPS) == (1.0, 0)
        if "SSD300" in path:
            assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SSD.NAME) == ("SSD", "ssd300_vgg16")
        else:
            assert cfg.MODEL.RESNETS.DEPTH == (101 if "R_101" in path else 50)
            assert f"R-{cfg.MODEL.RESNETS.DEPTH}.pkl" in cfg.MODEL.WEIGHTS
        assert cfg.SSOD.MULTI_PHASE.CONCATENATE
        assert cfg.SSOD.MULTI_PHASE.TEST_TIME_AUGMENTATION == ("_dd_" in path)


WILD_IMAGES = {"236k": 236_000, "1.3M": 1_281_167}


def test_hyperparameters_of_pudet() -> None:
    for path in (path for path in RUNS if path.startswith("configs/pudet")):
        cfg, node = load(path), load(path).SSOD.BOUNDED_DISTILLATION
        wild = bool(cfg.DATASETS.UNLABELED)
        solver = (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY)
        assert solver == (32, 0.04, 1e-4)
        # Epochs of the larger set; turns of labelled and wild batches alternate.
        images = next((n for key, n in WILD_IMAGES.items() if key in path), 117_266)
        steps = [*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER]
        epochs = [step * 32 / images / (2 if wild else 1) for step in steps]
        assert epochs == pytest.approx([8, 11, 12], abs=0.01)
        assert (node.HINT_WEIGHT, node.KD_WEIGHT, node.TEMPERATURE) == (1.0, 1.0, 2.0)
        assert (node.IMITATION_RATIO, node.NUM_PROPOSALS) == (0.5, 512)
        distils = "BoundedDistillation" in cfg.SSOD.METHODS
        assert distils == (Path(path).stem.split("_R_")[0] not in ("supervised", "teacher"))
        assert node.TEACHER == ("frozen" if distils else "ema")
        assert cfg.MODEL.RESNETS.DEPTH == (18 if "R_18" in path else 50)
        if wild:
            assert (cfg.SSOD.SCORE_THRESHOLD, cfg.SSOD.UNSUP_LOSS_WEIGHT) == (0.5, 1.0)
            assert cfg.SSOD.ALTERNATE_STREAMS
