"""Names, folders, files and masks, whatever the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import pytest

from awkward_files import cvat_file, labelme_file, problem, read, shape, studio, task, yolo
from layouts import TRUTH, cvat, labelimg_voc, labelimg_yolo, labelme, save_image, table
from ssod.data.declarations import parse_declaration
from ssod.data.masks import decode_mask

# ---- Names and folders, in whatever format


def test_same_name_in_two_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = {
        "one/1.jpg": [("cat", 1.0, 2.0, 30.0, 40.0)],
        "two/1.jpg": [("dog", 5.0, 6.0, 70.0, 80.0)],
    }
    for number, writer in enumerate((cvat, labelme, table, labelimg_voc, labelimg_yolo)):
        dataset = parse_declaration(f"mine{number}", writer(tmp_path / writer.__name__, truth))
        folders = {
            Path(r["file_name"]).parent.name: [a["bbox"] for a in r["annotations"]]
            for r in dataset.labeled_records()
        }
        assert folders == {
            "one": [pytest.approx([1, 2, 30, 40], abs=1e-3)],
            "two": [pytest.approx([5, 6, 70, 80], abs=1e-3)],
        }, writer.__name__


def test_bare_name_of_several_images_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("one", "two"):
        save_image(tmp_path / folder / "1.jpg")
    save_image(tmp_path / "two" / "2.jpg")
    lines = ["filename,xmin,ymin,xmax,ymax,class", "1.jpg,1,2,3,4,cat", "2.jpg,1,2,30,40,cat"]
    lines += ["C:\\photos\\one\\1.jpg,1,2,9,9,dog", "lost.jpg,1,2,9,9,dog"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    node = {"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "labels.csv")}
    assert read(node) == {"1.jpg": [("dog", 1, 2, 9, 9)], "2.jpg": [("cat", 1, 2, 30, 40)]}
    assert (
        "1 that may be one of several images of that name, 1 without an image file" in caplog.text
    )
    assert "line 2: 1.jpg, line 5: lost.jpg" in caplog.text


def test_no_image_is_found(tmp_path: Path) -> None:
    node = cvat(tmp_path / "set", TRUTH)
    save_image(tmp_path / "other" / "z.jpg")
    message = problem({**node, "IMAGES": str(tmp_path / "other")})
    assert "none of them for an image below" in message and "correct IMAGES" in message


def test_unreadable_image_keeps_its_place(tmp_path: Path) -> None:
    """The loader replaces and counts it, as in any format."""
    node = labelme(tmp_path, TRUTH)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert list(read(node)) == ["a.jpg", "b.jpg", "c.jpg"]


def test_boxes_follow_the_exif_tag(tmp_path: Path) -> None:
    from PIL import Image

    node = yolo(tmp_path, "0 0.5 0.5 0.2 0.5")
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "images" / "train" / "a.jpg", height=100, width=80, exif=exif)
    assert read(node) == {"a.jpg": [("cat", 40, 20, 60, 60)]}


# ---- Any of them


def test_nothing_labelled(tmp_path: Path) -> None:
    truth = {"a.jpg": None}
    for writer in (labelimg_yolo, labelme, labelimg_voc, cvat, table):
        assert "no labelled image" in problem(writer(tmp_path / writer.__name__, truth))


def test_missing_files(tmp_path: Path) -> None:
    for kind in ("yolo", "cvat", "labelme", "label_studio", "csv"):
        message = problem({"FORMAT": kind, "ANNOTATIONS": str(tmp_path / "nope")})
        assert "nope does not exist: correct ANNOTATIONS of mine" in message


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    import os

    node = yolo(tmp_path, "0 0.5 0.5 0.2 0.5")
    assert len(read(node)["a.jpg"]) == 1
    label = tmp_path / "labels" / "train" / "a.txt"
    label.write_text("0 0.5 0.5 0.2 0.5\n1 0.5 0.5 0.2 0.2")
    os.utime(label, ns=(2**61, 2**61))
    assert len(read(node)["a.jpg"]) == 2


# ---- masks


def _triangles(kind: str, root: Path) -> Dict[str, Any]:
    """A rectangle, and a triangle (10, 10), (50, 10), (10, 50) in a 100 x 80 image."""
    points = [[10, 10], [50, 10], [10, 50]]
    if kind == "yolo":
        return yolo(root, "0 0.5 0.5 0.2 0.5", "1 0.1 0.125 0.5 0.125 0.1 0.625")
    if kind == "cvat":
        names = "<name>cat</name></label><label><name>dog</name>"
        triangle = '<polygon label="dog" points="10,10;50,10;10,50"/>'
        return cvat_file(
            root, '<box label="cat" xtl="1" ytl="2" xbr="9" ybr="8"/>' + triangle, names
        )
    if kind == "labelme":
        return labelme_file(root, shape([[1, 2], [9, 8]]), shape(points, "polygon", "dog"))
    save_image(root / "a.jpg")
    box = {"x": 1, "y": 2, "width": 9, "height": 8, "rectanglelabels": ["cat"]}
    percent = [[x, y / 0.8] for x, y in points]
    return studio(root, task(box, {"points": percent, "polygonlabels": ["dog"]}))


@pytest.mark.parametrize("kind", ["yolo", "cvat", "labelme", "label_studio"])
def test_polygons_are_masks_where_they_are_wanted(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset: Any = parse_declaration("x", _triangles(kind, tmp_path))
    (plain,) = dataset.labeled_records()
    assert len(plain["annotations"]) == 2
    assert not any("segmentation" in a for a in plain["annotations"])
    (record,) = replace(dataset, masks=True).labeled_records()
    (annotation,) = record["annotations"]
    mask = decode_mask(annotation["segmentation"])
    assert mask.shape == (80, 100) and abs(mask.sum() - 800) < 45
    assert mask[15, 15] and not mask[45, 45] and annotation["category_id"] == 1
    assert "skipped 1 boxes without a usable mask (1 without a mask): " in caplog.text
