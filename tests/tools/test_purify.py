"""python -m ssod.tools.purify on coloured squares among blank images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import Tensor, nn

from ssod.data.catalog import load_unlabeled
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.methods.pudet import nnpu_risk
from ssod.purification import scoring
from ssod.purification.classifier import PUClassifier, build_classifier
from ssod.purification.files import FileList, walk_images, write_list
from ssod.purification.images import ImageReader
from ssod.purification.selection import measure, read_positives, top_scores
from ssod.purification.training import EpochPlan, TrainingOptions, epoch_order
from ssod.tools.purify import main
from ssod.utils.share import Share
from tiny import make_image, tiny_cfg, with_squares


@pytest.fixture(scope="module")
def pool(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a wild folder (10 images with squares, 10 of noise, one broken) and its truth."""
    root = tmp_path_factory.mktemp("pool")
    cfg = with_squares(tiny_cfg(), squares, root / "run")
    (root / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, root / "detector.pth")
    rng = np.random.default_rng(9)
    rows = [["file_name", "positive"]]
    for index in range(20):
        folder = root / "wild" / f"part{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        positive = index % 4 < 2
        image = make_image(rng)[0]
        if not positive:
            image = rng.integers(0, 60, image.shape, dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index:02d}.png"), image)
        rows.append([f"part{index % 2}/{index:02d}.png", str(int(positive))])
    (root / "wild" / "part0" / "broken.jpg").write_bytes(b"no image")
    (root / "wild" / ".hidden.png").write_bytes(b"")
    with open(root / "truth.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def run(pool: Path, output: Path, *more: str, weights: bool = True) -> None:
    arguments = ["--config-file", str(pool / "config.yaml"), "--wild", str(pool / "wild")]
    arguments += ["--keep", "10", "--output", str(output), "--size", "64", "--batch-size", "8"]
    arguments += ["--truth", str(pool / "truth.csv"), *more]
    if weights:
        arguments += ["MODEL.WEIGHTS", str(pool / "detector.pth")]
    main(arguments)


def kept_names(output: Path) -> List[str]:
    content = json.loads((output / "kept.json").read_text())
    return [image["file_name"] for image in content["images"]]


@pytest.mark.trains
def test_purifies_and_resumes(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(scoring, "SHARD", 6)
    options = ("--prior", "0.5", "--epochs", "12", "--lr", "0.3")
    output = tmp_path / "whole"
    run(pool, output, *options)
    printed = capsys.readouterr().out
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 21 and summary["kept"] == 10 and len(summary["risk"]) == 12
    assert list(summary["skipped"]) == ["part0/broken.jpg"] and "part0/broken.jpg" in printed
    assert summary["prior"] == summary["true_prior"] == 0.5
    for name in ("histogram.png", "contact_sheet.png"):
        assert cv2.imread(str(output / name)) is not None

    with open(output / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == list(walk_images(str(pool / "wild")))
    scores = {row["file_name"]: float(row["score"]) for row in rows if row["score"]}
    assert len(scores) == 20
    best = sorted(scores, key=lambda name: -scores[name])[:10]
    assert sorted(kept_names(output)) == sorted(best)
    assert {row["file_name"] for row in rows if row["kept"] == "1"} == set(best)
    with open(pool / "truth.csv", newline="") as file:
        truth = {row["file_name"] for row in csv.DictReader(file) if row["positive"] == "1"}
    assert summary["precision"] == pytest.approx(len(truth & set(best)) / 10)
    assert summary["recall"] == summary["precision"]  # as many kept as there are positives

    # Killed in the fourth epoch and while scoring, the same command comes to the same scores.
    parts = tmp_path / "parts"
    short = pytest.MonkeyPatch()
    calls: List[int] = []

    def stop(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    from ssod.purification import training

    write = training.write_atomically
    short.setattr(training, "write_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        run(pool, parts, *options)
    short.undo()
    run(pool, parts, *options)
    (parts / "scores" / "000001.json").unlink()
    run(pool, parts, *options)
    assert (parts / "scores.csv").read_bytes() == (output / "scores.csv").read_bytes()

    # Other settings are refused; another number only chooses anew.
    with pytest.raises(UserError, match="prior 0.5, now it is 0.2"):
        run(pool, parts, *options[2:], "--prior", "0.2")
    run(pool, parts, *options, "--keep", "3")
    assert set(kept_names(parts)) == set(best[:3])


def test_kept_images_are_an_unlabelled_set(pool: Path, tmp_path: Path) -> None:
    run(pool, tmp_path / "out", "--random", weights=False)
    cfg = load_config(str(pool / "config.yaml"))
    cfg.SSOD.METHODS = ("ScoreThreshold",)
    cfg.SSOD.DATASETS.purified = type(cfg)(
        {
            "FORMAT": "coco",
            "ANNOTATIONS": str(tmp_path / "out" / "kept.json"),
            "IMAGES": str(pool / "wild"),
        }
    )
    cfg.DATASETS.UNLABELED = ("purified",)
    records = load_unlabeled(cfg)
    assert len(records) == 10 and all(Path(r["file_name"]).is_file() for r in records)
    assert all((r["height"], r["width"]) == (64, 64) for r in records)


def test_random_choice_is_seeded_and_measured(pool: Path, tmp_path: Path) -> None:
    found = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(pool, tmp_path / name, "--random", "--seed", seed, weights=False)
        found[name] = kept_names(tmp_path / name)
    assert found["a"] == found["b"] != found["c"]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert 0 < summary["precision"] < 1 and summary["auc"] is None
    assert not (tmp_path / "a" / "scores.csv").exists()
    run(pool, tmp_path / "all", "--random", "--keep", "21", weights=False)
    assert len(kept_names(tmp_path / "all")) == 20  # the broken file cannot be chosen


@pytest.mark.parametrize(
    "more, words",
    [
        (["--prior", "1.5"], ["--prior", "1.5"]),
        (["--prior", "0.5", "--keep", "50"], ["--keep 50", "21 images"]),
        (["--prior", "0.5", "--keep", "0"], ["--keep", "at least 1"]),
        (["--prior", "0.5", "--batch-size", "7"], ["--batch-size 7", "multiple of 2"]),
        (["--prior", "0.5", "--size", "48"], ["--size 48", "multiple of 32"]),
        (["--prior", "0.5", "--wild", "nowhere"], ["nowhere", "--wild"]),
        (["--random", "--truth", "nowhere.csv"], ["nowhere.csv", "--truth"]),
        (["--prior", "0.5", "--output", __file__], [__file__, "--output"]),
    ],
)
def test_wrong_input_is_one_line(
    pool: Path, tmp_path: Path, more: List[str], words: List[str]
) -> None:
    with pytest.raises(UserError) as error:
        run(pool, tmp_path / "out", *more)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_prior_is_required(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run(pool, tmp_path / "out")
    assert "--prior is required" in capsys.readouterr().err


@pytest.mark.parametrize("meta", ["RetinaNet", "GeneralizedRCNN"])
def test_any_backbone_classifies(meta: str) -> None:
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = meta
    cfg.MODEL.RETINANET.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    classifier = build_classifier(cfg)
    assert classifier.linear.in_features == 2 * 5 * 32  # p2 to p6
    logits = classifier(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert logits.shape == (2,)
    logits.sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())  # DDP waits for the others


def test_classifier_starts_from_the_detector(pool: Path) -> None:
    cfg = load_config(str(pool / "config.yaml"), ["MODEL.WEIGHTS", str(pool / "detector.pth")])
    weights = torch.load(pool / "detector.pth", weights_only=True)["model"]
    state = build_classifier(cfg).body.state_dict()
    assert state and all(torch.equal(v, weights[f"backbone.{k}"]) for k, v in state.items())


class Pixels(nn.Module):
    """A backbone that shows the image itself."""

    def output_shape(self) -> Dict[str, ShapeSpec]:
        return {"p2": ShapeSpec(channels=3, stride=1)}

    def forward(self, images: Tensor) -> Dict[str, Tensor]:
        return {"p2": images}


def pixels_classifier() -> PUClassifier:
    detector = nn.Module()
    detector.backbone = Pixels()
    detector.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
    detector.register_buffer("pixel_std", torch.ones(3, 1, 1))
    return PUClassifier(detector)


@pytest.mark.trains
@pytest.mark.parametrize("prior", [0.1, 0.5])
def test_risk_does_not_push_everything_down(prior: float) -> None:
    """Maps with a large common mean and a prior below 1/2: the logits of all images sink together
    at first.
    """
    generator = torch.Generator().manual_seed(0)

    def images(positive: Tensor) -> Tensor:
        pixels = 100 + 10 * torch.randn(len(positive), 3, 8, 8, generator=generator)
        pixels[:, 0, 0, 0] += 100 * positive  # a bright spot
        return pixels.to(torch.uint8)

    classifier = pixels_classifier()
    optimizer = torch.optim.SGD(classifier.linear.parameters(), 0.01, momentum=0.9)
    for _ in range(100):
        wild = images((torch.rand(32, generator=generator) < prior).float())
        logits = classifier(torch.cat([images(torch.ones(32)), wild]))
        optimizer.zero_grad()
        nnpu_risk(logits[:32], logits[32:], prior).backward()
        optimizer.step()
    classifier.eval()
    truth = torch.arange(100) < 100 * prior
    logits = classifier(images(truth.float()))
    assert logits.max() > 0 > logits.min()
    assert logits[truth].mean() > logits[~truth].mean() + 1  # of 3 to 4


def as_rank(patch: pytest.MonkeyPatch, rank: int) -> None:
    patch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
    patch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)


def test_ranks_share_the_work(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks' parts of an epoch make up one rank's, and each writes the shards that the other
    does not.
    """
    options = TrainingOptions(prior=0.5, batch_size=8, seed=3)
    whole = list(EpochPlan(3, 10, options, epoch=0))
    plans = []
    for rank in range(2):
        as_rank(monkeypatch, rank)
        plans.append(list(EpochPlan(3, 10, options, epoch=0)))
    for one, first, second in zip(whole, *plans):
        for stream in range(2):
            assert one[stream].indices == first[stream].indices + second[stream].indices
            assert one[stream].seeds == first[stream].seeds + second[stream].seeds

    monkeypatch.setattr(scoring, "SHARD", 6)
    paths = list(walk_images(str(pool / "wild")))
    wild = ImageReader(
        paths, str(pool / "wild"), size=16, image_format="BGR", flip=False, replace=False
    )
    classifier = pixels_classifier()
    nn.init.constant_(classifier.linear.weight, 0.01)
    found = []
    for rank in range(2):
        as_rank(monkeypatch, rank)
        # As if both had started at once.
        scoring.score_images(classifier, wild, str(tmp_path / f"{rank}"), 4, 0)
        found.append(sorted(path.name for path in (tmp_path / f"{rank}" / "scores").iterdir()))
    assert found == [["000000.json", "000002.json"], ["000001.json", "000003.json"]]
    # Jobs that know nothing of each other divide the shards too.
    monkeypatch.undo()
    monkeypatch.setattr(scoring, "SHARD", 6)
    for index in range(2):
        own = tmp_path / f"job{index}"
        scoring.score_images(classifier, wild, str(own), 4, 0, Share(index, 2))
        assert sorted(path.name for path in (own / "scores").iterdir()) == found[index]
    for path in (tmp_path / "1" / "scores").iterdir():
        shutil.copy(path, tmp_path / "0" / "scores")
    scores = scoring.read_scores(str(tmp_path / "0"), len(paths))
    assert np.isfinite(scores.values).sum() == 20 and list(scores.skipped) == ["part0/broken.jpg"]


def test_file_list_is_on_disk(tmp_path: Path) -> None:
    wild = tmp_path / "wild"
    for name in ("b/2.png", "b/1.JPG", "a/ü.png", "c.txt", "0.png"):
        (wild / name).parent.mkdir(parents=True, exist_ok=True)
        (wild / name).write_bytes(b"")
    assert write_list(str(wild), str(tmp_path)) == 4
    found = FileList(str(tmp_path))
    assert list(found) == ["0.png", "a/ü.png", "b/1.JPG", "b/2.png"]
    with pytest.raises(IndexError):
        found[4]
    import pickle

    assert list(pickle.loads(pickle.dumps(found))) == list(found)
    shutil.rmtree(wild)
    wild.mkdir()
    with pytest.raises(UserError, match="no image"):
        write_list(str(wild), str(tmp_path / "other"))


def test_epochs_see_every_wild_image_in_full_batches() -> None:
    options = TrainingOptions(prior=0.5, batch_size=8, seed=3)
    plan = list(EpochPlan(3, 10, options, epoch=1))
    assert len(plan) == 3 and all(len(a.indices) == len(b.indices) == 4 for a, b in plan)
    wild = [index for _, request in plan for index in request.indices]
    assert set(wild) == set(range(10)) and len(wild) == 12
    again = list(EpochPlan(3, 10, options, epoch=1))
    assert plan == again != list(EpochPlan(3, 10, options, epoch=2))
    assert sorted(epoch_order(3, 6, (0,))) == [0, 0, 1, 1, 2, 2]


def test_reader_leaves_out_or_replaces_what_it_cannot_read(pool: Path) -> None:
    from ssod.purification.images import Request

    paths = ["part0/00.png", "part0/broken.jpg", "part1/01.png"]
    found: Dict[bool, List[int]] = {}
    for replace in (False, True):
        reader = ImageReader(
            paths, str(pool / "wild"), size=16, image_format="BGR", flip=True, replace=replace
        )
        batch = reader[Request((1, 0))]
        found[replace] = batch.indices
        assert [index for index, _ in batch.skipped] == [1]
        assert batch.images.shape == (len(batch.indices), 3, 16, 16)
    assert found == {False: [0], True: [2, 0]}


def test_top_scores_and_measures_by_hand() -> None:
    values = np.array([0.1, np.nan, 0.9, 0.5, 0.5], dtype=np.float32)
    assert top_scores(values, 2).tolist() == [False, False, True, True, False]
    assert top_scores(values, 5).tolist() == [True, False, True, True, True]
    kept = top_scores(values, 2)
    quality = measure(kept, np.array([1, 1, 1, 0, -1], dtype=np.int8), values)
    assert quality.precision == 0.5 and quality.recall == pytest.approx(1 / 3)
    assert quality.true_prior == 0.75 and quality.auc == 0.5  # 0.9 above 0.5, 0.1 below


def test_truth_in_cocos_format(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    (tmp_path / "t.json").write_text(
        json.dumps({"images": images, "annotations": [{"image_id": 2, "category_id": 1}]})
    )
    assert read_positives(str(tmp_path / "t.json"), ["b.png", "c.png", "a.png"]).tolist() == [
        1,
        -1,
        0,
    ]
    with pytest.raises(UserError, match="none of the wild images"):
        read_positives(str(tmp_path / "t.json"), ["c.png"])
