"""YOLO files that are not as the manual says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from awkward_files import problem, read, yolo
from layouts import TRUTH, labelimg_yolo, labelme, save_image
from ssod.data.declarations import parse_declaration


@pytest.mark.parametrize(
    "line, expected",
    [
        ("0 0.5 0.5 0.2 0.5", ("cat", 40, 20, 60, 60)),
        ("1.0 0.5 0.5 0.2 0.5", ("dog", 40, 20, 60, 60)),  # np.savetxt writes floats
        ("0 0.5 0.5 0.2 0.5 0.87", ("cat", 40, 20, 60, 60)),  # a score
        ("0 0.02 0.5 0.1 0.5", ("cat", -3, 20, 7, 60)),  # slightly outside
        ("0 0.1 0.1 0.5 0.2 0.3 0.9", ("cat", 10, 8, 50, 72)),  # a polygon
        ("0 0.1 0.1 0.5 0.2 0.3 0.9 0.6", ("cat", 10, 8, 50, 72)),  # and its score
        ("0 0.3 0.1 0.5 0.3 0.3 0.5 0.1 0.3", ("cat", 10, 8, 50, 40)),  # an oriented box
        ("  0\t0.5  0.5 0.2 0.5  ", ("cat", 40, 20, 60, 60)),
    ],
)
def test_yolo_line(line: str, expected: Tuple[Any, ...], tmp_path: Path) -> None:
    assert read(yolo(tmp_path, line)) == {"a.jpg": [expected]}


@pytest.mark.parametrize(
    "line, reason",
    [
        ("0 0.5 0.5 -0.2 0.5", "no area"),
        ("0 0.5 0.5 0 0.5", "no area"),
        ("0 nan 0.5 0.2 0.5", "not four finite numbers"),
        ("0 1.9 0.5 0.1 0.1", "outside of the image"),
        ("0 0.5 0.5 0.2", "not a line of class x y width height"),
        ("cat 0.5 0.5 0.2 0.5", "not a line of class x y width height"),
        ("0 40 20 60 60", "not relative to the image's size"),
    ],
)
def test_yolo_line_is_skipped_and_counted(
    line: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = read(yolo(tmp_path, "0 0.5 0.5 0.2 0.5", line))
    assert found == {"a.jpg": [("cat", 40, 20, 60, 60)]}
    assert f"skipped 1 unusable boxes (1 {reason}): a.txt line 2" in caplog.text


def test_yolo_pose_labels_have_a_box(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.2 0.5 " + " ".join(["0.1 0.2 2"] * 2)
    assert read(yolo(tmp_path, line, kpt_shape=[2, 3])) == {"a.jpg": [("cat", 40, 20, 60, 60)]}


@pytest.mark.parametrize(
    "lines, more, words",
    [
        (["2 0.5 0.5 0.2 0.5"], {}, "a.txt line 1 has the class 2"),
        (["-1 0.5 0.5 0.2 0.5"], {}, "has the class -1"),
        (["0 40 20 30 30", "1 50 30 9 9"], {}, "these look like pixels"),
        (["0 0.5 0.5 0.2 0.5"], {"nc": 3}, "nc 3, but 2 names"),
        (["0 0.5 0.5 0.2 0.5"], {"names": {0: "cat", 2: "dog"}}, "without gaps"),
        (["0 0.5 0.5 0.2 0.5"], {"names": ["cat", "cat"]}, "'cat' twice"),
        (["0 0.5 0.5 0.2 0.5"], {"names": "cat"}, "no list of names"),
        (["0 0.5 0.5 0.2 0.5"], {"train": "elsewhere"}, "does not exist"),
    ],
)
def test_yolo_is_refused(
    lines: List[str], more: Dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in problem(yolo(tmp_path, *lines, **more))


def test_yolo_splits(tmp_path: Path) -> None:
    node = yolo(tmp_path, "0 0.5 0.5 0.2 0.5", names={0: "cat", 1: "dog"}, train=["images/train"])
    save_image(tmp_path / "images" / "val" / "b.jpg")
    (tmp_path / "labels" / "val").mkdir()
    (tmp_path / "labels" / "val" / "b.txt").write_text("")
    assert list(read(node)) == ["a.jpg"]
    assert read({**node, "SPLIT": "valid"}) == {"b.jpg": []}
    assert "no split 'test'; its splits: train, val" in problem({**node, "SPLIT": "test"})


def test_yolo_folders_with_different_class_lists(tmp_path: Path) -> None:
    """labelImg writes classes.txt into each folder, in the order in which the classes were first
    drawn there.
    """
    labelimg_yolo(tmp_path / "one", TRUTH)
    labelimg_yolo(tmp_path / "two", TRUTH, classes=("dog", "cat"))
    node = {"FORMAT": "yolo", "ANNOTATIONS": str(tmp_path)}
    message = problem(node)
    assert "one/classes.txt names the classes cat, dog" in message
    assert "two/classes.txt names dog, cat" in message
    (tmp_path / "two" / "classes.txt").unlink()
    assert len(read(node)) == 3


def test_yolo_class_lists_that_grow(tmp_path: Path) -> None:
    """labelImg adds a class to the list of the folder that it works in."""
    labelimg_yolo(tmp_path / "one", {"a.jpg": TRUTH["a.jpg"]})
    labelimg_yolo(tmp_path / "two", {"b.jpg": [("cat", 1, 2, 30, 40)]}, classes=("cat",))
    dataset = parse_declaration("mine", {"FORMAT": "yolo", "ANNOTATIONS": str(tmp_path)})
    assert dataset.classes() == ["cat", "dog"]
    assert len(dataset.labeled_records()) == 2


def test_yolo_class_list_beside_data_yaml(tmp_path: Path) -> None:
    node = yolo(tmp_path, "0 0.5 0.5 0.2 0.5")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\n")
    assert len(read(node)["a.jpg"]) == 1
    (tmp_path / "labels" / "train" / "classes.txt").write_text("dog\ncat\n")
    assert "names the classes cat, dog" in problem(node)


def test_classes_that_differ_in_capitals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = labelme(tmp_path, {"a.jpg": [("Cat", 1, 2, 30, 40), ("cat", 1, 2, 50, 60)]})
    read(node)
    assert "the classes 'Cat' and 'cat' differ in capitals or blanks alone" in caplog.text


def test_yolo_without_names(tmp_path: Path) -> None:
    node = labelimg_yolo(tmp_path, TRUTH)
    (tmp_path / "classes.txt").unlink()
    assert "set CLASSES of mine, or add classes.txt" in problem(node)
    assert list(read({**node, "CLASSES": ["cat", "dog"]})) == ["a.jpg", "b.jpg", "c.jpg"]


def test_yolo_labels_without_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = yolo(tmp_path, "0 0.5 0.5 0.2 0.5")
    (tmp_path / "labels" / "train" / "lost.txt").write_text("0 0.5 0.5 0.2 0.5")
    read(node)
    assert "skipped 1 labels (1 without an image file): labels/train/lost.txt" in caplog.text


def test_yolo_image_list_with_missing_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = yolo(tmp_path, "0 0.5 0.5 0.2 0.5", train="train.txt")
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\n/content/x/images/train/b.jpg\n")
    assert list(read(node)) == ["a.jpg"]
    assert "1 of a list without an image file" in caplog.text
    (tmp_path / "train.txt").write_text("b.jpg\n")
    assert "none of which exists" in problem(node)
