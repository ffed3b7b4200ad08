"""The command that lists the images to label next."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from PIL import Image

from runs import RETINANET, train
from ssod.errors import UserError
from ssod.pseudo_labels import predictions
from ssod.tools import next as command
from tiny import tiny_cfg, with_squares


@pytest.fixture(scope="module")
def run_folder(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, and its config."""
    folder = tmp_path_factory.mktemp("next")
    cfg = with_squares(tiny_cfg(), squares, folder / "run", ("ScoreThreshold",))
    train(cfg)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def rows_of(path: Path) -> List[Dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def call(folder: Path, output: Path, *arguments: str) -> List[Dict[str, str]]:
    config = folder / "config.yaml"
    command.main(["--config-file", str(config), "--output", str(output), *arguments])
    return rows_of(output / "next.csv")


def test_the_list_the_scores_and_the_sheet(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = call(run_folder, tmp_path, "--count", "5", "--weights", str(run_folder / "run"))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert len({row["file_name"] for row in rows}) == 5 and all(row["why"] for row in rows)
    for column in ("score", "uncertainty", "disagreement", "rarity", "novelty", "distance"):
        assert all(float(row[column]) >= 0 for row in rows), column
    every = rows_of(tmp_path / "scores.csv")
    assert len(every) == 12 and sum(row["rank"] != "" for row in every) == 5
    assert Image.open(tmp_path / "next.jpg").width > 300
    assert "5 of 12 images of squares_unlabeled" in capsys.readouterr().out


def test_another_count_needs_no_detector(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call(run_folder, tmp_path, "--count", "3")  # the config's OUTPUT_DIR
    monkeypatch.setattr(predictions, "load_detector", lambda *a: pytest.fail("detects again"))
    second = call(run_folder, tmp_path, "--count", "6")
    assert second[:3] == first
    by_quality = call(run_folder, tmp_path, "--count", "12", "--parts", "uncertainty", "rarity")
    assert {row["rank"] for row in by_quality} == {str(n + 1) for n in range(12)}


def test_a_teacher_alone_has_no_disagreement(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = str(run_folder / "run" / "teacher_final.pth")
    rows = call(run_folder, tmp_path, "--weights", teacher)
    assert len(rows) == 12 and "disagreement" not in rows[0]
    assert "no student" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs a student"):
        call(run_folder, tmp_path, "--weights", teacher, "--parts", "disagreement")


def test_labelled_images_are_left_out_whatever_their_set(
    run_folder: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A folder with two labelled images, one test image, and an image that cannot be read."""
    folder = tmp_path / "all"
    shutil.copytree(squares / "unlabeled", folder / "new")
    for name in ("000.png", "001.png"):
        (folder / f"labelled_{name}").symlink_to(squares / "labeled" / name)
    (folder / "test.png").symlink_to(squares / "test" / "000.png")
    (folder / "broken.png").write_bytes(b"no image")
    config = tmp_path / "config.yaml"
    text = (run_folder / "config.yaml").read_text()
    cfg = yaml.safe_load(text)
    cfg["SSOD"]["DATASETS"]["everything"] = {"FORMAT": "folder", "IMAGES": str(folder)}
    cfg["DATASETS"]["TEST"] = ["squares_test"]
    config.write_text(yaml.safe_dump(cfg))
    rows = call(tmp_path, tmp_path / "out", "--dataset", "everything", "--count", "50")
    assert len(rows) == 12 and {Path(row["file_name"]).parent.name for row in rows} == {"new"}
    (broken,) = [r for r in rows_of(tmp_path / "out" / "scores.csv") if r["problem"]]
    assert broken["file_name"].endswith("broken.png")
    printed = capsys.readouterr().out
    assert (
        "2 images are in DATASETS.TRAIN" in printed and "1 images are in DATASETS.TEST" in printed
    )
    assert "1 images cannot be read" in printed


def test_a_random_list_follows_the_seed(run_folder: Path, tmp_path: Path) -> None:
    def files(seed: str) -> List[str]:
        rows = call(run_folder, tmp_path, "--random", "--count", "6", "--", "SEED", seed)
        return [row["file_name"] for row in rows]

    assert files("1") == files("1") != files("2")


def test_any_detector_that_detects(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.merge_from_list([*RETINANET, "DATASETS.UNLABELED", ("squares_unlabeled",)])
    train(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    rows = call(tmp_path, tmp_path / "out", "--count", "4")
    assert len(rows) == 4 and float(rows[0]["distance"]) > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count", "0"], "at least 1"),
        (["--dataset", "squares_unlabelled"], "did you mean"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--dataset", "squares_labeled"], "labelled already"),
        (["--", "DATASETS.UNLABELED", "()"], "UNLABELED is empty"),
        (["--", "OUTPUT_DIR", "nowhere"], "train with this config first"),
    ],
)
def test_mistakes(run_folder: Path, tmp_path: Path, arguments: List[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call(run_folder, tmp_path, *arguments)
    assert "\n" not in str(caught.value)


def test_output_is_a_folder(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        call(run_folder, tmp_path / "out")


def test_stored_predictions_keep_their_features(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from detectron2.structures import Boxes, Instances

    found = Instances((4, 4))
    found.pred_boxes, found.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    found.pred_classes = torch.zeros(0, dtype=torch.int64)
    rows: List[Any] = [
        predictions.Prediction(found, "", np.array([1.0, 2.0])),
        predictions.Prediction(None, "damaged"),
        predictions.Prediction(found, "", np.array([3.0, 4.0])),
    ]
    store = predictions.PredictionStore(str(tmp_path), 3)
    store.write(0, rows)
    read = list(store)
    assert [None if r.feature is None else r.feature.tolist() for r in read] == [
        [1, 2],
        None,
        [3, 4],
    ]
    assert read[1].problem == "damaged"
