"""VOC folders without lists of images, and shapes that are no boxes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Tuple

import pytest

from awkward_files import problem, read
from layouts import CLASSES, TRUTH, labelimg_voc, save_image
from ssod.data.declarations import parse_declaration


def test_voc_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = labelimg_voc(tmp_path, TRUTH)
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "lost.xml").write_text(text.replace("a.jpg", "lost.jpg"))
    (tmp_path / "other.xml").write_text("<project/>")
    (tmp_path / "._a.xml").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "b.xml").write_text(text.replace("<xmin>11", "<xmin>45"))  # right of xmax 40
    with caplog.at_level(logging.INFO):
        found = read(node)
    assert found == {"a.jpg": TRUTH["a.jpg"], "b.jpg": [TRUTH["a.jpg"][1]], "c.jpg": []}  # type: ignore[index]
    assert "skipped 1 labels (1 without an image file): lost.xml" in caplog.text
    assert "(1 no area): b.xml object 1" in caplog.text
    assert "1 of 4 images have no labels" in caplog.text
    assert parse_declaration("mine", {**node, "CLASSES": list(CLASSES)}).classes() == list(CLASSES)
    assert "'dog', which is not in CLASSES of mine" in problem({**node, "CLASSES": ["cat"]})


@pytest.mark.parametrize(
    "shape, expected",
    [
        ("<polygon><x1>11</x1><y1>21</y1><x2>30</x2><y2>25</y2><x3>15</x3><y3>40</y3></polygon>", (10, 20, 30, 40)),
        ("<polygon><pt><x>11</x><y>21</y></pt><pt><x>30</x><y>40</y></pt></polygon>", (10, 20, 30, 40)),
        # 20 x 10, turned by a right angle
        ("<robndbox><cx>50</cx><cy>40</cy><w>20</w><h>10</h><angle>1.570796</angle></robndbox>", (44, 29, 55, 50)),
        ("<bndbox><xmin>11.0</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>", (10, 20, 30, 40)),
    ],
)  # fmt: skip
def test_voc_shapes(shape: str, expected: Tuple[float, ...], tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    text = f"<annotation><object><name>cat</name>{shape}</object></annotation>"
    (tmp_path / "a.xml").write_text(text)
    assert read({"FORMAT": "voc", "ROOT": str(tmp_path)}) == {"a.jpg": [("cat", *expected)]}


@pytest.mark.parametrize(
    "shape", ["", "<polygon/>", "<bndbox/>", "<robndbox><cx>1</cx></robndbox>"]
)
def test_voc_object_without_a_box(
    shape: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_image(tmp_path / "a.jpg")
    text = f"<annotation><object><name>cat</name>{shape}</object></annotation>"
    (tmp_path / "a.xml").write_text(text)
    assert read({"FORMAT": "voc", "ROOT": str(tmp_path), "CLASSES": ["cat"]}) == {"a.jpg": []}
    assert "1 not four finite numbers" in caplog.text


def test_voc_with_lists_needs_a_split(tmp_path: Path) -> None:
    node = labelimg_voc(tmp_path, TRUTH)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a")
    assert "set SPLIT to one of train" in problem(node)
