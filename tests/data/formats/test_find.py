"""Finds the data sets in a folder, and names the right FORMAT in place of a wrong one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict

import pytest

from layouts import (
    TRUTH,
    WRITERS,
    Writer,
    coco,
    cvat,
    labelimg_voc,
    labelimg_yolo,
    labelme,
    save_image,
    ultralytics,
)
from ssod.data.declarations import parse_declaration
from ssod.data.formats.find import find_datasets, split_named
from ssod.errors import UserError


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_found_in_a_folder(writer: Writer, tmp_path: Path) -> None:
    node = writer(tmp_path / "set", TRUTH)
    found = find_datasets(str(tmp_path / "set"))
    assert {one.format for one in found} == {node["FORMAT"]}
    expected = parse_declaration("mine", node).labeled_records()
    assert parse_declaration("mine", found[0].node).labeled_records() == expected
    path = node.get("ANNOTATIONS") or node["ROOT"]
    assert {one.format for one in find_datasets(path)} == {node["FORMAT"]}


def test_images_elsewhere_in_the_folder(tmp_path: Path) -> None:
    coco(tmp_path / "set", TRUTH)
    (tmp_path / "set" / "images").rename(tmp_path / "set" / "photos")
    (tmp_path / "set" / "labels").mkdir()
    (tmp_path / "set" / "instances.json").rename(tmp_path / "set" / "labels" / "train.json")
    (found,) = find_datasets(str(tmp_path / "set"))
    assert found.node["IMAGES"] == str(tmp_path / "set" / "photos")
    assert found.split == "train"


def test_splits_by_name() -> None:
    names = {
        "instances_train2017.json": "train",
        "valid/_annotations.coco.json": "val",
        "set/test/labels.csv": "test",
        "VALIDATION": "val",
        "training/a.json": "train",
        "contest.json": "",
        "a.json": "",
    }
    assert {name: split_named(name) for name in names} == names


def test_nothing_is_found(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("a b c")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.xml").write_text("<a>")
    (tmp_path / "c.csv").write_text("price,name\n3,x")
    (tmp_path / "d.yaml").write_text("names: 3")
    assert find_datasets(str(tmp_path)) == []
    assert find_datasets(str(tmp_path / "nope")) == []


def message(node: Dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        dataset = parse_declaration("mine", node)
        dataset.classes()
        dataset.labeled_records()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_format_is_answered_by_the_right_one(tmp_path: Path) -> None:
    yolo = ultralytics(tmp_path / "yolo", TRUTH)
    images = str(tmp_path / "yolo" / "images")
    looks = f"This looks like FORMAT yolo: {{FORMAT: yolo, ANNOTATIONS: {yolo['ANNOTATIONS']}, SPLIT: train}}."
    for wrong in ("coco", "cvat", "csv", "label_studio"):
        text = message({"FORMAT": wrong, "ANNOTATIONS": yolo["ANNOTATIONS"], "IMAGES": images})
        assert text.endswith(looks), text
        assert text.count("This looks like") == 1
    folder = str(tmp_path / "yolo")
    assert message({"FORMAT": "voc", "ROOT": folder}).endswith(looks)
    assert message({"FORMAT": "voc", "ROOT": folder, "SPLIT": "train"}).endswith(looks)
    assert message({"FORMAT": "labelme", "ANNOTATIONS": folder}).endswith(looks)
    assert message({"FORMAT": "folder", "IMAGES": folder}).endswith(looks)
    for unknown in ("YOLO", "yolov8", "ultralytics"):
        assert message({"FORMAT": unknown, "ANNOTATIONS": yolo["ANNOTATIONS"]}).endswith(looks)
    assert "did you mean 'yolo'" in message({"FORMAT": "yolov8", "ANNOTATIONS": "nope"})
    assert "did you mean 'voc'" in message({"FORMAT": "pascal_voc", "ROOT": "nope"})
    assert message({"FORMAT": "coco", "ANNOTATIONS": yolo["ANNOTATIONS"]}).endswith(looks)


@pytest.mark.parametrize("writer", [cvat, labelme, coco, labelimg_yolo], ids=lambda w: w.__name__)
def test_other_formats_given_as_yolo_or_csv(writer: Writer, tmp_path: Path) -> None:
    node = writer(tmp_path / "set", TRUTH)
    wrong = "csv" if node["FORMAT"] == "yolo" else "yolo"
    text = message({"FORMAT": wrong, "ANNOTATIONS": node["ANNOTATIONS"]})
    assert f"This looks like FORMAT {node['FORMAT']}: {{FORMAT: {node['FORMAT']}," in text


def test_declared_images_are_not_doubted(tmp_path: Path) -> None:
    node = cvat(tmp_path / "set", TRUTH)
    (tmp_path / "set" / "images").rename(tmp_path / "photos")
    images = str(tmp_path / "photos")
    text = message({"FORMAT": "coco", "ANNOTATIONS": node["ANNOTATIONS"], "IMAGES": images})
    assert text.endswith(f"ANNOTATIONS: {node['ANNOTATIONS']}, IMAGES: {images}}}.")


def test_no_hint_where_the_format_is_right(tmp_path: Path) -> None:
    node = ultralytics(tmp_path, TRUTH)
    assert "looks like" not in message({**node, "SPLIT": "nope"})


def test_voc_of_cvat(tmp_path: Path) -> None:
    """CVAT's export calls its only list "default"; VOC's own lists of one class are left out."""
    labelimg_voc(tmp_path / "flat", TRUTH)
    for part, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        (tmp_path / "set" / part).mkdir(parents=True)
        for path in (tmp_path / "flat").glob(f"*{suffix}"):
            shutil.copy(path, tmp_path / "set" / part)
    lists = tmp_path / "set" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("a\nb\nc\n")
    (lists / "cat_train.txt").write_text("a 1\n")
    node = {"FORMAT": "voc", "ROOT": str(tmp_path / "set"), "SPLIT": "default"}
    assert [one.node for one in find_datasets(str(tmp_path / "set"))] == [node]
    (lists / "val.txt").write_text("c\n")
    found = find_datasets(str(tmp_path / "set"))
    assert [(one.node["SPLIT"], one.split) for one in found] == [("val", "val")]
    xml = str(tmp_path / "set" / "Annotations" / "a.xml")
    assert [one.node["SPLIT"] for one in find_datasets(xml)] == ["val"]
