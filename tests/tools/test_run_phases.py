"""Algorithm 1 with the tiny detector: its files, and that it continues where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
import yaml
from detectron2.structures import Boxes, Instances

from ssod.data.readings import register_datasets
from ssod.data.truth import ImageTruth
from ssod.engine.setup import load_config
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.evaluation.pseudo_label_quality import count_labels
from ssod.phases.difficulty import easy_images, quality_by_difficulty
from ssod.phases.plan import plan_phases
from ssod.phases.summary import format_markdown, labels_ap
from ssod.plotting.run_data import load_runs
from ssod.pseudo_labels import labelling, predictions
from ssod.pseudo_labels.labelling import label_images
from ssod.report.page import build_page
from ssod.tools import run_phases
from tiny import tiny_cfg, with_squares

pytestmark = pytest.mark.trains

METHODS = ("ScoreThreshold", "PseudoBoxRegression")


@pytest.fixture
def config(squares: Path, tmp_path: Path) -> Path:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "out", METHODS)
    cfg.SSOD.DATASETS.squares_unlabeled.TRUTH = str(squares / "unlabeled.json")
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.TEST.EVAL_PERIOD = 4
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 4, 2
    cfg.SSOD.BURN_IN_STEPS, cfg.SSOD.SCORE_THRESHOLD = 0, 0.0
    cfg.SSOD.VIS_PERIOD = 0
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # so that an untrained detector finds something
    cfg.SSOD.MULTI_PHASE.INTERSECTION_IOU = 0.0  # and two of them agree on it
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    return path


def run(config: Path, *opts: str) -> None:
    run_phases.main(["--config-file", str(config), "--num-gpus", "1", *opts])


def digest(folder: Path) -> Dict[str, Any]:
    """The content of the files that must not depend on interruptions."""
    found: Dict[str, Any] = {}
    for phase in sorted(folder.glob("phase_*")):
        state = torch.load(phase / "model_final.pth", weights_only=True)["model"]
        found[phase.name] = {key: value.tolist() for key, value in state.items()}
        labels = phase / "pseudo_labels.json"
        if labels.exists():
            found[f"labels of {phase.name}"] = json.loads(labels.read_text())["annotations"]
    found["phases"] = json.loads((folder / "phases.json").read_text())
    return found


def test_two_phases(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config, "PHASES", "2")
    out = tmp_path / "out"
    labels = [json.loads((out / f"phase_{i}/pseudo_labels.json").read_text()) for i in (1, 2)]
    counts = [len(found["images"]) for found in labels]
    assert 0 < counts[0] <= 6 and 0 < counts[1] <= 12  # the half, and all, that have a label
    for found in labels:
        labelled = {row["image_id"] for row in found["annotations"]}
        assert labelled == {image["id"] for image in found["images"]}
    assert [len(found["info"]["models"]) for found in labels] == [1, 2]
    # The first phase has the most certain half of the images that its only model can rank.
    configs = [yaml.safe_load((out / f"phase_{i}/config.yaml").read_text()) for i in range(3)]
    assert [c["SSOD"]["METHODS"] for c in configs] == [[], list(METHODS), list(METHODS)]
    assert [c["SEED"] for c in configs] == [3, 4, 5]
    assert configs[0]["SSOD"]["PSEUDO_LABELS"] == ""
    record = json.loads((out / "phases.json").read_text())
    assert list(record["test"]["squares_test"]["rows"]) == ["0", "1", "2", "1~2", "0~2"]
    assert [entry["images"] for entry in record["labels"]] == counts
    assert sum(record["labels"][0]["certainty_all"]) == 12
    assert set(record["labels"][1]["quality"]) == {"all", "easy", "difficult"}
    assert all(0 <= entry["ap"]["AP"] <= entry["ap"]["AP50"] for entry in record["labels"])
    # One model alone is what its own run measured.
    own = json.loads((out / "phase_1/results.json").read_text())
    alone = record["test"]["squares_test"]["rows"]["1"]["all"]
    assert alone["AP50"] == pytest.approx(
        own["teacher_best"]["test"]["squares_test"]["bbox"]["AP50"]
    )
    page = build_page(load_runs([str(out / f"phase_{i}") for i in range(3)]))
    assert page.count("<h2>Phases</h2>") == 1 and "1~2" in page and "phase 2</figcaption>" in page
    assert (out / "summary.md").read_text().count("\n| ") == 6
    assert "squares_test,1~2,all,AP," in (out / "summary.csv").read_text()

    # Again: nothing is trained or predicted anew.
    monkeypatch.setattr(SSODTrainer, "__init__", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(predictions, "load_detector", lambda *_: pytest.fail("predicted again"))
    before = digest(out)
    run(config, "PHASES", "2")
    assert digest(out) == before
    with pytest.raises(UserError, match="phase_1 was begun .*PHASES was 2, now 3"):
        run(config, "PHASES", "3")
    with pytest.raises(UserError, match="SOLVER.BASE_LR was 0.01, now 0.02"):
        run(config, "PHASES", "2", "SOLVER.BASE_LR", "0.02")


def test_killed_anywhere_it_continues(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("PHASES", "1", "DATASETS.TEST", "()")
    run(config, *short)
    whole = digest(tmp_path / "out")
    assert whole.keys() == {"phase_0", "phase_1", "labels of phase_1", "phases"}
    other = (*short, "OUTPUT_DIR", str(tmp_path / "other"))
    step = SSODTrainer.after_step
    steps = 0

    def killed(self: SSODTrainer) -> None:
        nonlocal steps
        step(self)
        steps += 1
        if steps in (
            3,
            8,
        ):  # in phase 0 after its checkpoint, in phase 1 (from step 2 on: 4, 5, ...)
            raise KeyboardInterrupt

    monkeypatch.setattr(SSODTrainer, "after_step", killed)
    write = predictions.PredictionStore.write
    written = 0

    def killed_write(self: Any, shard: int, rows: Any) -> None:
        nonlocal written
        written += 1
        if written == 1:  # while it labels for phase 1
            raise KeyboardInterrupt
        write(self, shard, rows)

    monkeypatch.setattr(predictions.PredictionStore, "write", killed_write)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(config, *other)
    run(config, *other)
    again = digest(tmp_path / "other")
    assert again.keys() == whole.keys()
    for key in whole:
        assert again[key] == whole[key], key


def test_phase_0_can_be_given(config: Path, tmp_path: Path) -> None:
    weights = tmp_path / "supervised.pth"
    cfg = load_config(
        str(config),
        ["SSOD.MULTI_PHASE.PHASE_0_WEIGHTS", str(weights), "SSOD.MULTI_PHASE.PHASES", "1"],
    )
    with pytest.raises(UserError, match="supervised.pth does not exist"):
        plan_phases(cfg)
    weights.write_bytes(b"")
    first, second = plan_phases(cfg)
    assert first.finished and first.weights == str(weights)
    assert not second.finished and second.fraction == 1.0


def test_bad_settings(config: Path) -> None:
    with pytest.raises(UserError, match="PHASES is 0"):
        run(config, "PHASES", "0")
    with pytest.raises(UserError, match="phases need both"):
        run(config, "SSOD.METHODS", "()")
    with pytest.raises(UserError, match="one has no value"):
        run(config, "PHASES")


def test_easy_images_by_hand() -> None:
    box, far = [0.0, 0, 10, 10], [50.0, 50, 60, 60]

    def image(labels: list, truth: list):
        ones = torch.zeros(len(labels), dtype=torch.int64)
        return count_labels(
            torch.tensor(labels).reshape(-1, 4),
            ones,
            torch.ones(len(labels)),
            torch.tensor(truth).reshape(-1, 4),
            torch.zeros(len(truth), dtype=torch.int64),
            1,
        )

    counts = [
        image([box], [box]),  # recall 1 > 0
        image([box, far], [box, [20.0, 20, 30, 30]]),  # 0.5 > 0.5 is not
        image([box], [box, [20.0, 20, 30, 30], [30.0, 40, 35, 45]]),  # 1/3 > 0
        image([], [box]),  # 0 > 0 is not
        image([], []),  # 1 > 0
        image([far], []),  # 1 > 1 is not
    ]
    easy = easy_images(counts)
    assert easy.tolist() == [True, False, True, False, True, False]
    quality = quality_by_difficulty(counts, easy)
    assert quality["easy"] == pytest.approx([1.0, 0.5])
    assert quality["difficult"] == pytest.approx([1 / 3, 1 / 3])
    assert quality["all"] == pytest.approx([3 / 5, 3 / 7])


def test_table_shows_what_is_missing() -> None:
    rows = {"0": {"all": {"AP": 12.34, "AP50": float("nan")}}}
    text = format_markdown({"set": {"easy_share": 0.5, "rows": rows}})
    assert "| 0 (supervised) | 12.3 | – | – | – | – | – |" in text and "50% of the images" in text


def test_concatenated_sets(config: Path, squares: Path) -> None:
    """8 labelled and 12 unlabelled images: MMDetection's one loss over both, phase by phase."""
    opts = ["SSOD.MULTI_PHASE.CONCATENATE", "True", "SOLVER.IMS_PER_BATCH", "8"]
    opts += ["SSOD.IMS_PER_BATCH_UNLABELED", "8", "SOLVER.BASE_LR", "0.01"]
    phases = plan_phases(load_config(str(config), opts))
    cfgs = [load_config(str(config), [*opts, *phase.overrides]) for phase in phases]
    assert cfgs[0].SOLVER.BASE_LR == pytest.approx(0.005)  # 8 images a step instead of 16
    assert [c.SOLVER.BASE_LR for c in cfgs[1:]] == [0.01, 0.01]
    # Phase 1 keeps 6 images: 8 / 14 of 16 images are 9. Phase 2: 8 / 20 are 6.
    found = [(c.SOLVER.IMS_PER_BATCH, c.SSOD.IMS_PER_BATCH_UNLABELED) for c in cfgs[1:]]
    assert found == [(9, 7), (6, 10)]
    weights = [(c.SSOD.SUP_LOSS_WEIGHT, c.SSOD.UNSUP_LOSS_WEIGHT) for c in cfgs[1:]]
    assert weights == [pytest.approx((8 / 14, 6 / 14)), pytest.approx((0.4, 0.6))]
    # On 8 GPUs of 2 images nothing can be shifted, so the weights alone do it.
    phases = plan_phases(load_config(str(config), [*opts, "SOLVER.REFERENCE_WORLD_SIZE", "8"]))
    cfg = load_config(str(config), [*opts, *phases[2].overrides])
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SSOD.IMS_PER_BATCH_UNLABELED) == (8, 8)
    assert cfg.SSOD.SUP_LOSS_WEIGHT == pytest.approx(0.4)
    # Without the key nothing is changed.
    plain = plan_phases(load_config(str(config), opts[2:]))
    assert not any("SSOD.SUP_LOSS_WEIGHT" in phase.overrides for phase in plain)


def test_fraction(config: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = load_config(str(config), ["SSOD.MULTI_PHASE.FRACTION", "0.5"])
    assert [phase.fraction for phase in plan_phases(cfg)] == [0, 0.25, 0.5]
    for value in ("0.0", "1.5"):
        with pytest.raises(UserError, match="SSOD.MULTI_PHASE.FRACTION is"):
            plan_phases(load_config(str(config), ["SSOD.MULTI_PHASE.FRACTION", value]))
    seen: Dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_phases, "launch_from", lambda work, args: seen.update(opts=args.opts))
        run(config, "--fraction", "0.5", "PHASES", "1")
    assert seen["opts"][-2:] == ["SSOD.MULTI_PHASE.FRACTION", "0.5"]


def prediction(boxes: Any, classes: Any, scores: Any) -> predictions.Prediction:
    found = Instances((40, 40))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    found.scores = torch.tensor(scores, dtype=torch.float32)
    return predictions.Prediction(found)


def test_ap_of_the_labels() -> None:
    box, far = [0.0, 0, 10, 10], [20.0, 20, 30, 30]
    truth = [
        ImageTruth(torch.tensor([box]), torch.tensor([0])),
        ImageTruth(torch.tensor([far]), torch.tensor([1])),
    ]
    right = [prediction([box], [0], [0.9]), prediction([far], [1], [0.8])]
    assert labels_ap(list(zip(right, truth)), 2) == pytest.approx({"AP": 100.0, "AP50": 100.0})
    half = [right[0], prediction([], [], [])]
    assert labels_ap(list(zip(half, truth)), 2) == pytest.approx({"AP": 50.0, "AP50": 50.0})
    # Half of the width: IoU 0.5 counts at the lowest threshold alone.
    narrow = [prediction([[0.0, 0, 5, 10]], [0], [0.9]), right[1]]
    assert labels_ap(list(zip(narrow, truth)), 2)["AP"] == pytest.approx(55.0, abs=0.1)


def test_images_without_an_agreed_label_are_left_out(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(str(config), [])
    register_datasets(cfg)
    rows = [prediction([[0, 0, 9, 9]], [0], [0.9])] * 3 + [prediction([], [], [])] * 9
    monkeypatch.setattr(labelling, "predict", lambda *args: rows)
    written = []
    for keep in (True, False):
        path = tmp_path / f"{keep}.json"
        label_images(cfg, ["a"], str(path), "", threshold=0.5, keep_empty=keep)
        written.append(len(json.loads(path.read_text())["images"]))
    assert written == [12, 3]
    with pytest.raises(UserError, match="No unlabelled image has a label"):
        label_images(cfg, ["a"], str(tmp_path / "none.json"), "", threshold=0.95, keep_empty=False)
