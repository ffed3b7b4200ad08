"""The hook that measures pseudo-labels: its files, and that training is the same with it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

import toy_method  # noqa: F401  (registers Toy)
from ssod.engine.quality_hook import PseudoLabelQuality, evenly_spaced
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.plotting.run_data import RunData
from ssod.report.gallery import pseudo_label_images
from tiny import CLASSES, tiny_cfg, with_squares


def config(root: Path, output: Path, truth: bool = True) -> CfgNode:
    cfg = with_squares(tiny_cfg(), root, output, ("ScoreThreshold", "Toy"))
    cfg.SSOD.SCORE_THRESHOLD = 0.06
    cfg.SSOD.SNAPSHOT_DELAY = 5
    cfg.TEST.EVAL_PERIOD = 2
    if truth:
        cfg.SSOD.DATASETS.squares_unlabeled.TRUTH = str(root / "unlabeled.json")
    os.makedirs(output, exist_ok=True)
    return cfg


def train(cfg: CfgNode) -> SSODTrainer:
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def state(trainer: SSODTrainer) -> Dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.core.state_dict().items()}


def lines(output: Path) -> list[Dict[str, Any]]:
    return [json.loads(line) for line in open(output / "metrics.json")]


@pytest.mark.trains
def test_training_does_not_notice_it(squares: Path, tmp_path: Path) -> None:
    seeing = train(config(squares, tmp_path / "seeing"))
    blind = train(config(squares, tmp_path / "blind", truth=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PseudoLabelQuality, "after_step", lambda self: None)
        without = train(config(squares, tmp_path / "without"))
    a = state(seeing)
    for other in (state(blind), state(without)):
        assert a.keys() == other.keys() and all(torch.equal(a[name], other[name]) for name in a)
    keep = ("loss", "pseudo/", "lr", "iteration")

    def kept(output: Path) -> list[Dict[str, Any]]:
        return [{k: v for k, v in line.items() if keep_key(k)} for line in lines(output)]

    def keep_key(key: str) -> bool:
        return any(word in key for word in keep)

    assert kept(tmp_path / "seeing")[-1] == kept(tmp_path / "blind")[-1]
    assert kept(tmp_path / "seeing")[-1] == kept(tmp_path / "without")[-1]
    # Without truth there is still something to look at, but nothing that claims to be measured.
    record = json.loads((tmp_path / "blind" / "pseudo_quality" / "step_6.json").read_text())
    assert len(record["images"]) == 12 and "selected" not in record
    assert not any("pseudo_quality" in key for line in lines(tmp_path / "blind") for key in line)


@pytest.mark.trains
def test_what_it_writes(squares: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(config(squares, output))
    folder = output / "pseudo_quality"
    # Two steps of burn-in: nothing to measure at step 2.
    assert sorted(p.name for p in folder.iterdir()) == ["step_4.json", "step_6.json"]
    record = json.loads((folder / "step_6.json").read_text())
    assert record["step"] == 6 and record["classes"] == list(CLASSES)
    assert record["sampled_images"] == 12 and len(record["images"]) == 12
    truth = json.loads((squares / "unlabeled.json").read_text())
    counted = {name: row["truth"] for name, row in record["selected"]["per_class"].items()}
    for index, name in enumerate(CLASSES):
        wanted = sum(a["category_id"] == index + 1 for a in truth["annotations"])
        assert counted[name] == wanted
    candidates = sum(row["count"] for row in record["candidates"]["per_class"].values())
    assert sum(row["count"] for row in record["iou_by_size"]) == candidates > 0
    image = record["images"][0]
    x, y, w, h = truth["annotations"][0]["bbox"]
    assert image["truth_boxes"][0] == [x, y, x + w, y + h]
    assert os.path.samefile(image["file_name"], squares / "unlabeled" / "000.png")
    merged: Dict[str, Any] = {}
    for line in lines(output):
        merged.update(line)
    for name in ("precision", "recall", "mean_iou", "kl", "candidates_recall", "count-red"):
        assert f"pseudo_quality/{name}" in merged
    assert merged["pseudo_quality/truth-red"] == counted["red"]


def test_labels_of_the_whole_sample_are_kept(
    squares: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The gallery shows some images. The report looks at all of them, without a truth too."""
    monkeypatch.setattr(PseudoLabelQuality, "GALLERY", 3)
    for name, truth in (("seeing", True), ("blind", False)):
        cfg = config(squares, tmp_path / name, truth)
        cfg.SSOD.SCORE_THRESHOLD = 0.99
        trainer = SSODTrainer(cfg)
        hook = next(h for h in trainer._hooks if isinstance(h, PseudoLabelQuality))
        with EventStorage(5):
            hook.measure(6)
        record = json.loads((tmp_path / name / "pseudo_quality" / "step_6.json").read_text())
        images = record["images"]
        assert len(images) == 12
        assert [i for i, image in enumerate(images) if image["shown"]] == evenly_spaced(12, 3)
        for image in images:
            # An untrained teacher is sure of nothing. The best candidate stands for the labels.
            assert image["boxes"] == [] and ("truth_boxes" in image) == truth
            assert 0.05 <= image["best"]["score"] < 0.99 and len(image["best"]["box"]) == 4
        shown = pseudo_label_images([RunData("run", "run", quality={6: record})])
        assert [image.file_name for image in shown] == [images[i]["file_name"] for i in (0, 6, 11)]


def test_perfect_teacher_scores_one(squares: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The selected rows are compared, in pixels of the image files."""
    cfg = config(squares, tmp_path / "run")
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 96  # 1.5 times the files' size
    trainer = SSODTrainer(cfg)
    hook = next(h for h in trainer._hooks if isinstance(h, PseudoLabelQuality))
    truth = iter([row for _, row in hook._sample])
    label = trainer.core.label

    def perfect(samples: Any) -> Any:
        outputs = label(samples)
        for index, found in enumerate(outputs.detections):
            row = next(truth)
            exact = type(found)(found.image_size)
            # All true boxes with a high score, and one wrong box that the threshold removes.
            boxes = torch.cat([row.boxes * 1.5, torch.tensor([[0.0, 0, 3, 3]])])
            exact.pred_boxes = type(found.pred_boxes)(boxes)
            exact.scores = torch.tensor([0.9] * len(row.boxes) + [0.055])
            exact.pred_classes = torch.cat([row.classes, torch.tensor([0])])
            outputs.detections[index] = exact
        return outputs

    monkeypatch.setattr(trainer.core, "label", perfect)
    modes = [module.training for module in trainer.core.modules()]
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    before = state(trainer)
    with EventStorage(5) as storage:
        hook.measure(6)
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["pseudo_quality/precision"] == 1 and latest["pseudo_quality/recall"] == 1
    assert latest["pseudo_quality/mean_iou"] == pytest.approx(1, abs=1e-4)
    assert latest["pseudo_quality/kl"] == pytest.approx(0, abs=1e-9)
    assert latest["pseudo_quality/candidates_precision"] < 1
    assert latest["pseudo_quality/candidates_recall"] == 1
    assert not any(name.startswith("pseudo/") for name in latest)
    assert modes == [module.training for module in trainer.core.modules()]
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert all(torch.equal(before[name], value) for name, value in state(trainer).items())


def test_files_past_the_start_are_removed(squares: Path, tmp_path: Path) -> None:
    trainer = SSODTrainer(config(squares, tmp_path / "run"))
    hook = next(h for h in trainer._hooks if isinstance(h, PseudoLabelQuality))
    folder = tmp_path / "run" / "pseudo_quality"
    folder.mkdir()
    for step in (4, 6):
        (folder / f"step_{step}.json").write_text("{}")
    trainer.start_iter = 4
    hook.trainer = trainer
    hook.before_train()
    assert [p.name for p in folder.iterdir()] == ["step_4.json"]


def test_missing_truth_file_is_named(squares: Path, tmp_path: Path) -> None:
    cfg = config(squares, tmp_path / "run")
    cfg.SSOD.DATASETS.squares_unlabeled.TRUTH = str(tmp_path / "none.json")
    with pytest.raises(UserError, match="none.json does not exist"):
        SSODTrainer(cfg)


@pytest.mark.parametrize(
    "count, limit, expected", [(0, 3, []), (2, 3, [0, 1]), (9, 3, [0, 4, 8]), (5, 1, [0])]
)
def test_evenly_spaced(count: int, limit: int, expected: list[int]) -> None:
    assert evenly_spaced(count, limit) == expected
