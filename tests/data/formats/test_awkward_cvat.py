"""CVAT files that are not as the manual says."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import pytest

from awkward_files import cvat_file, problem, read
from layouts import save_image
from ssod.data.declarations import parse_declaration


@pytest.mark.parametrize(
    "shape, expected",
    [
        ('<box label="cat" xtl="10" ytl="20" xbr="30" ybr="40"/>', (10, 20, 30, 40)),
        ('<box label="cat" xtl="30" ytl="40" xbr="10" ybr="20"/>', (10, 20, 30, 40)),
        ('<box label="cat" xtl="-2" ytl="20" xbr="30" ybr="81"/>', (-2, 20, 30, 81)),
        # Turned by a right angle about its centre, 20 x 10 becomes 10 x 20.
        ('<box label="cat" xtl="10" ytl="20" xbr="30" ybr="30" rotation="90"/>', (15, 15, 25, 35)),
        # After a turn by 45 degrees, half of the diagonal of a square of 20 is 14.1.
        ('<box label="cat" xtl="10" ytl="20" xbr="30" ybr="40" rotation="45"/>', (5.9, 15.9, 34.1, 44.1)),
        ('<polygon label="cat" points="10,20;30.5,25;15,40"/>', (10, 20, 30.5, 40)),
        ('<ellipse label="cat" cx="50" cy="40" rx="20" ry="10"/>', (30, 30, 70, 50)),
        ('<ellipse label="cat" cx="50" cy="40" rx="20" ry="10" rotation="90"/>', (40, 20, 60, 60)),
        ('<mask label="cat" left="5" top="6" width="10" height="20" rle="0, 200"/>', (5, 6, 15, 26)),
    ],
)  # fmt: skip
def test_cvat_shape(shape: str, expected: Tuple[float, ...], tmp_path: Path) -> None:
    assert read(cvat_file(tmp_path, shape)) == {"a.jpg": [("cat", *expected)]}


@pytest.mark.parametrize(
    "shape, reason",
    [
        ('<polyline label="cat" points="1,2;3,4"/>', "of shape polyline, which has no box"),
        ('<points label="cat" points="1,2"/>', "of shape points, which has no box"),
        ('<box label="cat" xtl="1" ytl="2" xbr="x" ybr="4"/>', "not four finite numbers"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "without a class"),
        ('<box label="cat" xtl="1" ytl="2" xbr="1" ybr="4"/>', "no area"),
    ],
)
def test_cvat_shape_is_skipped_and_counted(
    shape: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = '<box label="cat" xtl="10" ytl="20" xbr="30" ybr="40"/>'
    assert read(cvat_file(tmp_path, good + shape)) == {"a.jpg": [("cat", 10, 20, 30, 40)]}
    assert f"(1 {reason}): a.jpg shape 2" in caplog.text


def test_cvat_video(tmp_path: Path) -> None:
    for frame in (0, 12):
        save_image(tmp_path / "images" / f"frame_{frame:06d}.PNG")
    (tmp_path / "annotations.xml").write_text(
        '<annotations><track id="0" label="cat">'
        '<box frame="0" outside="0" xtl="1" ytl="2" xbr="30" ybr="40"/>'
        '<box frame="12" outside="0" xtl="5" ytl="2" xbr="30" ybr="40"/>'
        '<box frame="13" outside="1" xtl="5" ytl="2" xbr="30" ybr="40"/></track></annotations>'
    )
    node = {
        "FORMAT": "cvat",
        "ANNOTATIONS": str(tmp_path / "annotations.xml"),
        "IMAGES": str(tmp_path / "images"),
    }
    assert read(node) == {
        "frame_000000.PNG": [("cat", 1, 2, 30, 40)],
        "frame_000012.PNG": [("cat", 5, 2, 30, 40)],
    }


def test_cvat_tasks_in_one_folder(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="10" ytl="20" xbr="30" ybr="40"/>'
    cvat_file(tmp_path / "one", box)
    other = cvat_file(tmp_path / "two", box, "<name>dog</name>")
    node = {"FORMAT": "cvat", "ANNOTATIONS": str(tmp_path)}
    message = problem(node)
    assert "has the labels cat" in message and "two/annotations.xml has dog" in message
    both = parse_declaration("mine", {**node, "CLASSES": ["cat", "dog"]})
    folders = [Path(record["file_name"]).parent.name for record in both.labeled_records()]
    assert folders == ["one", "two"]  # each task's a.jpg is the one beside it
    assert "'cat', which is not in its list" in problem(other)


def test_cvat_subset(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="10" ytl="20" xbr="30" ybr="40"/>'
    node = cvat_file(tmp_path, box, subset="Train")
    assert list(read({**node, "SPLIT": "Train"})) == ["a.jpg"]
    assert "its subsets: Train" in problem({**node, "SPLIT": "Validation"})
