"""`doctor DATASET`, on each tool's layout and on what a config declares."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from layouts import TRUTH, WRITERS, Writer, coco, labelimg_voc, labelme, ultralytics
from ssod.tools import doctor


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_layouts(writer: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer(tmp_path / "photos", TRUTH)
    sheet = tmp_path / "out" / "sheet.jpg"
    assert doctor.main([str(tmp_path / "photos"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["cat", "1", "1"] in rows and ["dog", "2", "2"] in rows
    if writer.__name__ in ("coco", "cvat"):  # which list images that nobody has seen
        counts = "4: 2 with boxes, 0 labelled as empty, 2 without labels"
    elif writer.__name__ == "table":
        counts = "3: 2 with boxes, 1 labelled as empty, 0 without labels"
    else:
        counts = "4: 2 with boxes, 1 labelled as empty, 1 without labels"
    assert f"images      {counts}" in out
    assert "few boxes   cat (1), dog (2)" in out
    assert "1 boxes around nearly the whole image: " in out
    with Image.open(sheet) as image:
        assert image.size[0] > 360


def test_odd_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [
        ("cat", 10, 10, 60, 60),
        ("dog", 10, 10, 60, 61),  # the same place
        ("cat", 70, 10, 72, 70),  # thin, and long
        ("cat", 70, 20, 110, 70),  # 10 pixels outside
        ("cat", 70, 20, 70, 30),  # without area
    ]
    labelme(tmp_path, {"a.jpg": boxes, "b.jpg": [("cat", 1, 2, 30, 40)]})
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert doctor.main([str(tmp_path), "--sheet", str(tmp_path / "s.jpg")]) == 0
    out = capsys.readouterr().out
    assert "odd         1 boxes twice at the same place: a.jpg: dog 10,10,60,61" in out
    assert "1 boxes thinner than 3 pixels: a.jpg: cat 70,10,72,70" in out
    assert "1 boxes more than 10 times as long as wide" in out
    assert "1 boxes partly outside of the image (it is clipped): a.jpg: cat 70,20,110,70" in out
    assert "skipped 1 unusable boxes (1 no area): a.json shape 5" in out
    assert "unreadable  1 images: b.jpg" in out


def test_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"mine": ultralytics(tmp_path / "a", TRUTH), "other": coco(tmp_path / "b", TRUTH)}
    sets["extra"] = {"FORMAT": "folder", "IMAGES": str(tmp_path / "b" / "images")}
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"SSOD": {"DATASETS": sets}, "VERSION": 2}))
    arguments = ["--config-file", str(config), "--sheet", str(tmp_path / "s.jpg")]
    for name, kind in (("mine", "yolo"), ("other", "coco")):
        assert doctor.main([*arguments, name]) == 0
        assert f"format      {kind}" in capsys.readouterr().out
    assert doctor.main([*arguments, "extra"]) == 0
    assert "4: 0 with boxes, 0 labelled as empty, 4 without labels" in capsys.readouterr().out
    assert doctor.main([*arguments, "mime"]) == 1
    assert "declares no 'mime': did you mean 'mine'?" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelimg_voc(tmp_path / "a", TRUTH)
    ultralytics(tmp_path / "b", TRUTH)
    shutil.copytree(tmp_path / "a", tmp_path / "both")
    shutil.copytree(tmp_path / "b", tmp_path / "both", dirs_exist_ok=True)
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["nope"], "does not exist"),
        (["empty"], "has no labels of COCO, VOC, YOLO"),
        (["both"], "has labels of voc and yolo: choose with --format"),
        (["a", "--format", "vok"], "did you mean 'voc'"),
        (["b", "--split", "test"], "the splits: train, val"),
        (["a", "--images", "x"], "--images means nothing to voc"),
        (["a", "--classes", "cat"], "'dog', which is not in CLASSES"),
        (["a", "--format", "coco"], "needs --images too"),
    ):
        arguments = [str(tmp_path / arguments[0]), *arguments[1:]]
        assert doctor.main(arguments) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
    assert doctor.main([str(tmp_path / "both"), "--format", "yolo", "--split", "train"]) == 0
