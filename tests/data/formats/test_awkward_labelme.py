"""LabelMe files that are not as the manual says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Tuple

import pytest

from awkward_files import labelme_file, problem, read, shape
from layouts import save_image


@pytest.mark.parametrize(
    "found, expected",
    [
        (shape([[10, 20], [30, 40]]), (10, 20, 30, 40)),
        (shape([[30, 20], [10, 40]]), (10, 20, 30, 40)),  # drawn from the right to the left
        (shape([[10, 20], [30, 20], [30, 40], [10, 40]]), (10, 20, 30, 40)),
        (shape([[10, 20], [30, 25], [15, 40]], "polygon"), (10, 20, 30, 40)),
        (shape([[10, 20], [30, 25], [15, 40]], None), (10, 20, 30, 40)),
        (shape([[50, 40], [53, 44]], "circle"), (45, 35, 55, 45)),
        (shape([[10, 20], [30, 40]], "mask"), (10, 20, 30, 40)),
        (shape([[-3, 20], [30, 90.5]]), (-3, 20, 30, 90.5)),
    ],
)
def test_labelme_shape(found: Any, expected: Tuple[float, ...], tmp_path: Path) -> None:
    assert read(labelme_file(tmp_path, found)) == {"a.jpg": [("cat", *expected)]}


@pytest.mark.parametrize(
    "bad, reason",
    [
        (shape([[10, 20]], "point"), "of shape point, which has no box"),
        (shape([[10, 20], [30, 40]], "line"), "of shape line, which has no box"),
        (shape([[10, 20], [30]]), "not four finite numbers"),
        (shape([[10, 20], [10, 40]]), "no area"),
        (shape([[10, 20], [30, 40]], label=" "), "without a class"),
        (shape(None), "not four finite numbers"),
        ("text", "not a shape"),
    ],
)
def test_labelme_shape_is_skipped_and_counted(
    bad: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = labelme_file(tmp_path, shape([[10, 20], [30, 40]]), bad)
    assert read(node) == {"a.jpg": [("cat", 10, 20, 30, 40)]}
    assert f"(1 {reason}): a.json shape 2" in caplog.text


def test_labelme_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The image beside the file, whatever the file says; else the one it names, in another folder;
    else none.
    """
    labelme_file(tmp_path / "set", shape([[1, 2], [30, 40]]), imagePath="old name.jpg")
    save_image(tmp_path / "set" / "photos" / "b.jpg")
    content = {"shapes": [shape([[5, 6], [30, 40]], label="dog")], "imagePath": "..\\photos\\b.jpg"}
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "labels" / "x.json").write_text(json.dumps(content))
    lost = json.dumps({**content, "imagePath": "lost.jpg"})
    (tmp_path / "set" / "labels" / "lost.json").write_text(lost)
    (tmp_path / "set" / "settings.json").write_text('{"version": 1}')
    node = {"FORMAT": "labelme", "ANNOTATIONS": str(tmp_path / "set")}
    assert read(node) == {"a.jpg": [("cat", 1, 2, 30, 40)], "b.jpg": [("dog", 5, 6, 30, 40)]}
    assert "skipped 1 labels (1 without an image file): labels/lost.json" in caplog.text
    (tmp_path / "set" / "labels" / "y.json").write_text(json.dumps(content))
    assert "both label photos/b.jpg" in problem(node)
