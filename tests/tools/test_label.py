"""The command that labels images for an annotation tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List

import pytest

from runs import train
from ssod.active_learning.detection import thresholds
from ssod.errors import UserError
from ssod.pseudo_labels.predictions import Prediction
from ssod.tools import label as command
from tiny import CLASSES, tiny_cfg, with_squares


@pytest.fixture(scope="module")
def folder(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run and its config, whose unlabelled set has a hidden truth."""
    folder = tmp_path_factory.mktemp("label")
    cfg = with_squares(tiny_cfg(), squares, folder / "run", ("ScoreThreshold",))
    cfg.SSOD.DATASETS.squares_unlabeled["TRUTH"] = str(squares / "unlabeled.json")
    train(cfg)
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def call(folder: Path, output: Path, *arguments: str) -> None:
    command.main(
        ["--config-file", str(folder / "config.yaml"), "--output", str(output), *arguments]
    )


def test_a_whole_set(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call(folder, tmp_path / "out", "--to", "coco", "--threshold", "0.05")
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert len(content["images"]) == 12 and content["annotations"]
    assert all(a["score"] >= 0.05 for a in content["annotations"])
    assert [c["name"] for c in content["categories"]] == list(CLASSES)
    printed = capsys.readouterr().out
    assert f"{len(content['annotations'])} boxes on 12 images" in printed and "scores:" in printed
    assert content["info"]["description"].endswith("teacher_final.pth")


def test_a_list_keeps_its_order(folder: Path, squares: Path, tmp_path: Path) -> None:
    listed = tmp_path / "next.csv"
    listed.write_text(f"rank,file_name\n1,{squares}/unlabeled/007.png\n2,unlabeled/002.png\n")
    call(folder, tmp_path / "out", "--to", "coco", "--images", str(listed))
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["007.png", "002.png"]
    (tmp_path / "list.txt").write_text("003.png\n\n003.png\n")
    call(folder, tmp_path / "two", "--to", "yolo", "--images", str(tmp_path / "list.txt"))
    assert [p.name for p in (tmp_path / "two" / "images").iterdir()] == ["003.png"]


def test_matched_thresholds_by_default(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    call(folder, tmp_path / "out", "--to", "labelme")
    assert "matched to the labelled set: red" in capsys.readouterr().out


def test_the_truth_simulates_an_annotator(folder: Path, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("004.png\n005.png\n")
    more = ["--to", "coco", "--truth", "--images", str(tmp_path / "list.txt")]
    call(folder, tmp_path / "out", *more)
    found = json.loads((tmp_path / "out" / "annotations.json").read_text())
    truth = json.loads((squares / "unlabeled.json").read_text())

    def boxes(content: dict) -> dict:
        names = {i["id"]: i["file_name"] for i in content["images"]}
        rows: dict = {}
        for a in content["annotations"]:
            rows.setdefault(names[a["image_id"]], []).append((a["category_id"], a["bbox"]))
        return rows

    expected = {k: v for k, v in boxes(truth).items() if k in ("004.png", "005.png")}
    assert boxes(found) == expected and "score" not in found["annotations"][0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "coco", "--threshold", "1.5"], "between 0 and 1"),
        (["--to", "coco", "--images", "nowhere.csv"], "cannot be read as a list"),
        (["--to", "coco", "--image-url", "x"], "labelstudio"),
        (["--to", "coco", "--truth", "--weights", "x"], "neither"),
        (["--to", "coco", "--weights", "x.pth"], "x.pth"),
        (["--to", "coco", "--dataset", "squares_unlabelled"], "did you mean"),
    ],
)
def test_mistakes(folder: Path, tmp_path: Path, arguments: List[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call(folder, tmp_path / "out", *arguments)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_lists_that_name_nothing(folder: Path, tmp_path: Path) -> None:
    for name, text, message in (
        ("empty.txt", "\n", "names no image"),
        ("other.txt", "x/999.png\n", "names 1 images that the image set does not have"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            call(folder, tmp_path / "out", "--to", "coco", "--images", str(tmp_path / name))
    with pytest.raises(UserError, match="no true labels"):
        text = (folder / "config.yaml").read_text().replace("TRUTH", "GROUPS")
        (tmp_path / "config.yaml").write_text(text)
        call(tmp_path, tmp_path / "out", "--to", "coco", "--truth")


def test_a_class_of_which_less_than_one_box_is_expected_shares_its_threshold() -> None:
    """One image; ten labelled ones have 20 red boxes and 5 green ones: 2 and 0.5 are expected."""
    import torch
    from detectron2.structures import Boxes, Instances

    found = Instances((10, 10))
    found.pred_boxes = Boxes(torch.zeros(5, 4))
    found.scores = torch.tensor([0.9, 0.6, 0.3, 0.7, 0.2])
    found.pred_classes = torch.tensor([0, 0, 0, 1, 1])
    limits = thresholds([Prediction(found)], torch.tensor([20, 5]), 10)  # type: ignore[arg-type]
    # Red keeps 0.9 and 0.6. Of all boxes 2.5 are expected; the higher threshold keeps 0.9 and 0.7.
    assert limits.tolist() == pytest.approx([0.6, 0.7], abs=2e-4)  # a bin
