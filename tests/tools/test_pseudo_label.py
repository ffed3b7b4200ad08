"""The offline labeller: its files, and that it continues where it stopped."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, Instances
from torch import nn

from ssod.data.catalog import load_unlabeled
from ssod.engine.setup import load_config
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.pseudo_labels import predictions
from ssod.pseudo_labels.labelling import agreed_labels, write_labels
from ssod.tools import pseudo_label
from tiny import CLASSES, tiny_cfg, with_squares


class Fake(nn.Module):
    """Finds in every image a red box whose score is the image's brightness, and a faint green
    one.
    """

    def __init__(self, shift: float = 0.0, classes: tuple[int, ...] = (0, 1)) -> None:
        super().__init__()
        self.calls, self.shift, self.classes = 0, shift, classes

    def forward(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        self.calls += 1
        (item,) = inputs
        found = Instances((item["height"], item["width"]))
        found.pred_boxes = Boxes(torch.tensor([[4.0, 4, 24, 24], [30, 30, 40, 50]]) + self.shift)
        found.scores = torch.tensor([float(item["image"].float().mean()) / 255, 0.2])
        found.pred_classes = torch.tensor(self.classes)
        return [{"instances": found}]


@pytest.fixture
def config(squares: Path, tmp_path: Path) -> Path:
    """A config file of the squares, and files that pass for weights."""
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    for name in ("a", "b"):
        (tmp_path / f"{name}.pth").write_text(name)
    return path


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Fake]:
    fakes = {"a.pth": Fake(), "b.pth": Fake(shift=2.0)}
    monkeypatch.setattr(
        predictions, "load_detector", lambda cfg, path, role: fakes[Path(path).name]
    )
    monkeypatch.setattr(predictions, "SHARD_SIZE", 5)
    return fakes


def run(config: Path, *arguments: str, weights: tuple[str, ...] = ("a",)) -> Dict[str, Any]:
    folder = config.parent
    files = [str(folder / f"{name}.pth") for name in weights]
    output = str(folder / "labels.json")
    pseudo_label.main(
        ["--config-file", str(config), "--weights", *files, "--output", output, *arguments]
    )
    return json.loads(Path(output).read_text())


def test_what_it_writes(config: Path, models: Dict[str, Fake], squares: Path) -> None:
    found = run(config, "--thresholds", "0.1")
    assert [i["id"] for i in found["images"]] == list(range(1, 13))
    assert found["images"][0]["file_name"] == "000.png" and found["images"][0]["width"] == 64
    assert len(found["annotations"]) == 24
    first = found["annotations"][0]
    assert first["bbox"] == [4, 4, 20, 20] and first["category_id"] == 1 and first["area"] == 400
    assert found["images"][0]["certainty"] == pytest.approx((first["score"] + 0.2) / 2, abs=1e-5)

    # Detectron2 reads it as it is, with the scores for those who want them.
    output = str(config.parent / "labels.json")
    records = load_coco_json(output, str(squares / "unlabeled"), "from_tool", ["score"])
    assert len(records) == 12 and records[0]["annotations"][0]["category_id"] == 0
    assert records[0]["annotations"][0]["score"] == first["score"]
    # And so does training.
    cfg = with_squares(tiny_cfg(), squares, config.parent / "run", ("ScoreThreshold",))
    cfg.SSOD.PSEUDO_LABELS = output
    assert [len(r["stored"]["boxes"]) for r in load_unlabeled(cfg)] == [2] * 12


def test_matched_thresholds_follow_the_labelled_set(
    config: Path, models: Dict[str, Fake], squares: Path
) -> None:
    labeled = json.loads((squares / "labeled.json").read_text())
    reds = sum(a["category_id"] == 1 for a in labeled["annotations"])
    expected = min(12, round(reds / 8 * 12))
    found = run(config)
    assert sum(a["category_id"] == 1 for a in found["annotations"]) == expected
    assert set(found["info"]["thresholds"][0]) == set(CLASSES)
    # The faint boxes all have one score: all of them or none.
    greens = sum(a["category_id"] == 2 for a in labeled["annotations"])
    wanted = greens / 8 * 12
    kept = sum(a["category_id"] == 2 for a in found["annotations"])
    assert kept == (12 if abs(12 - wanted) < wanted else 0)


def test_several_models_intersect(config: Path, models: Dict[str, Fake]) -> None:
    models["b.pth"].classes = (0, 2)  # they disagree about the second box
    found = run(config, "--thresholds", "0.1", weights=("a", "b"))
    assert len(found["annotations"]) == 12
    assert found["annotations"][0]["bbox"] == [6, 6, 20, 20]  # the newest model's


def test_several_models_fused(config: Path, models: Dict[str, Fake]) -> None:
    models["b.pth"].classes = (0, 2)
    found = run(config, "--thresholds", "0.1", "--combine", "fused", weights=("a", "b"))
    # The first box is found by both, with one score, so half way; the others by one of two.
    first, *others = [a for a in found["annotations"] if a["image_id"] == 1]
    assert first["bbox"] == pytest.approx([5, 5, 20, 20], abs=1e-2)
    assert sorted((a["category_id"], a["score"]) for a in others) == [(2, 0.1), (3, 0.1)]
    assert found["info"]["combine"] == "fused" and len(found["info"]["thresholds"]) == 1
    # The matched threshold is of the fused scores: one class, one cut.
    matched = run(config, "--combine", "fused", weights=("a", "b"))
    cut = matched["info"]["thresholds"][0]["red"]
    assert min(a["score"] for a in matched["annotations"] if a["category_id"] == 1) >= cut


def test_goes_on_after_a_kill(
    config: Path, models: Dict[str, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config, weights=("a", "b"))
    shutil.rmtree(config.parent / "labels.json.predictions")
    (config.parent / "labels.json").unlink()
    models["a.pth"].calls = models["b.pth"].calls = 0
    write = predictions.PredictionStore.write
    written: List[int] = []

    def killed(self: Any, shard: int, rows: Any) -> None:
        if len(written) == 4:  # the first model's three shards and one of the second's
            raise KeyboardInterrupt
        written.append(shard)
        write(self, shard, rows)

    monkeypatch.setattr(predictions.PredictionStore, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, weights=("a", "b"))
    monkeypatch.setattr(predictions.PredictionStore, "write", write)
    assert not (config.parent / "labels.json").exists()
    models["a.pth"].calls = models["b.pth"].calls = 0
    assert run(config, weights=("a", "b")) == whole
    assert (models["a.pth"].calls, models["b.pth"].calls) == (0, 7)
    # Other thresholds need no prediction at all; other weights need all of them.
    run(config, "--thresholds", "0.3", weights=("a", "b"))
    assert models["b.pth"].calls == 7
    (config.parent / "a.pth").write_text("trained longer")
    run(config)
    assert models["a.pth"].calls == 12


def test_a_runs_own_config_finds_the_predictions_again(config: Path, squares: Path) -> None:
    dumped = load_config(str(config))
    fresh = with_squares(tiny_cfg(), squares, config.parent / "run", ("ScoreThreshold",))
    weights, records = str(config.parent / "a.pth"), load_unlabeled(dumped)
    for tta in (False, True):
        assert predictions._digest(dumped, weights, records, tta) == predictions._digest(
            fresh, weights, records, tta
        )
    fresh.INPUT.MIN_SIZE_TEST = 96
    assert predictions._digest(dumped, weights, records, False) != predictions._digest(
        fresh, weights, records, False
    )


def test_ranks_share_the_shards(
    config: Path, models: Dict[str, Fake], squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(str(config))
    records = load_unlabeled(cfg)
    weights, cache = str(config.parent / "a.pth"), str(config.parent / "cache")
    done = []
    # Both ranks look at once: at what rank 0 has seen before anything was written.
    seen: Dict[int, Any] = {}

    def gather(value: Any) -> List[Any]:
        return [seen.setdefault(calls.pop(0), value)]

    for rank in (0, 1):
        calls = [0, 1]
        ranks = SimpleNamespace(
            is_main_process=lambda rank=rank: rank == 0,
            get_rank=lambda rank=rank: rank,
            get_world_size=lambda: 2,
            all_gather=gather,
            synchronize=lambda: None,
        )
        monkeypatch.setattr(predictions, "comm", ranks)
        store = predictions.predict(cfg, weights, records, cache)
        done.append(store.missing())
    assert done == [[1], []] and models["a.pth"].calls == 12
    assert [len(row.found) for row in store if row.found is not None] == [2] * 12


def test_memory_does_not_grow_with_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 200 to 1,000 images it grows by the order of the images and their ids, not by 20 labels
    each.
    """
    monkeypatch.setattr(predictions, "SHARD_SIZE", 50)

    def peak(count: int) -> int:
        store = predictions.PredictionStore(str(tmp_path / str(count)), count)
        Path(store.folder).mkdir()
        for shard in range(store.num_shards):
            rows = []
            for _ in store.indices(shard):
                found = Instances((100, 100))
                found.pred_boxes = Boxes(
                    torch.rand(20, 2).repeat(1, 2) + torch.tensor([0, 0, 9, 9])
                )
                found.scores, found.pred_classes = torch.rand(20), torch.randint(3, (20,))
                rows.append(predictions.Prediction(found))
            store.write(shard, rows)
        records = [{"file_name": f"{k}.png", "image_id": k} for k in range(count)]
        limits = [torch.zeros(3, dtype=torch.float64)]
        output = str(tmp_path / f"{count}.json")
        tracemalloc.start()
        try:
            labels = agreed_labels([store], limits, 0.5)
            kept = torch.ones(count, dtype=torch.bool)
            write_labels(output, records, labels, kept, CLASSES, {"image_root": "."})
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(50)  # imports and caches
    assert peak(1000) - peak(200) < 800 * 200
    assert (tmp_path / "1000.json").stat().st_size > 1000 * 20 * 100


def test_damaged_images_are_skipped_and_listed(
    config: Path, models: Dict[str, Fake], squares: Path, tmp_path: Path
) -> None:
    shutil.copytree(squares / "unlabeled", tmp_path / "images")
    (tmp_path / "images/003.png").write_bytes(b"no image")
    key = "SSOD.DATASETS.squares_unlabeled.IMAGES"
    found = run(config, "--thresholds", "0.1", key, str(tmp_path / "images"))
    assert 4 not in [image["id"] for image in found["images"]] and len(found["images"]) == 11
    ((name, reason),) = found["info"]["skipped"]
    assert name.endswith("003.png") and reason


def test_bad_arguments(config: Path, models: Dict[str, Fake]) -> None:
    with pytest.raises(UserError, match="--thresholds high"):
        run(config, "--thresholds", "high")
    with pytest.raises(UserError, match="DATASETS.UNLABELED is empty"):
        run(config, "SSOD.METHODS", "()", "DATASETS.UNLABELED", "()")
    with pytest.raises(UserError, match="c.pth"):
        run(config, weights=("c",))


def test_a_real_model_with_and_without_augmentation(config: Path, squares: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, config.parent / "run")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = SSODTrainer(cfg)
    trainer.checkpointer.save_weights("a", trainer.core.teacher.state_dict())
    shutil.copy(config.parent / "run/a.pth", config.parent / "a.pth")
    plain = run(config, "--thresholds", "0.0")
    several = run(config, "--tta", "--thresholds", "0.0", "TEST.AUG.MIN_SIZES", "(64, 96)")
    assert plain["info"]["test_time_augmentation"] is False
    assert several["info"]["test_time_augmentation"] is True
    assert len(plain["annotations"]) > 0 and plain["annotations"] != several["annotations"]
    assert all(0.05 < a["score"] <= 1 for a in several["annotations"])


def test_jobs_share_the_images_and_the_last_command_writes_the_file(
    config: Path, models: Dict[str, Fake]
) -> None:
    whole = run(config)
    output = config.parent / "labels.json"
    shutil.rmtree(f"{output}.predictions")
    output.unlink()
    models["a.pth"].calls = 0
    calls = []
    for share in ("1/2", "0/2"):
        with pytest.raises(FileNotFoundError):  # a job writes predictions, and no labels
            run(config, "--share", share)
        calls.append(models["a.pth"].calls)
    assert calls == [5, 12]  # shards of 5, 5 and 2 images: the second one; the first and third
    assert run(config) == whole
    assert models["a.pth"].calls == 12  # nothing was left to predict


@pytest.mark.parametrize("share", ["2/2", "1", "a/b", "-1/2"])
def test_wrong_shares_are_one_line(config: Path, models: Dict[str, Fake], share: str) -> None:
    with pytest.raises(UserError, match="^--share .*: write JOB/JOBS"):
        run(config, f"--share={share}")


def test_cluster_runs_this_command_in_jobs(
    config: Path, models: Dict[str, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: List[Any] = []
    monkeypatch.setattr(pseudo_label, "run_jobs", lambda *args, **kwargs: seen.append(args))
    run(
        config,
        "--cluster",
        "local",
        "--jobs",
        "3",
        "--cluster-options",
        "timeout_min=5",
        "--thresholds=0.1",
    )
    ((cluster, module, argv),) = seen
    assert (cluster.executor, cluster.jobs, cluster.parameters) == ("local", 3, {"timeout_min": 5})
    assert module == "ssod.tools.pseudo_label"
    assert argv[:2] == ["--config-file", str(config)] and argv[-1] == "--thresholds=0.1"
    assert not {"--cluster", "--jobs", "3", "timeout_min=5"} & set(argv)
