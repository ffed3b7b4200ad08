"""Files of each format that are not as the manual says."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import yaml

from layouts import CLASSES, TRUTH, cvat, labelimg_voc, labelimg_yolo, labelme, save_image, table
from ssod.data.declarations import parse_declaration
from ssod.data.masks import decode_mask
from ssod.errors import UserError

Found = Dict[str, List[Tuple[Any, ...]]]


def read(node: Dict[str, Any]) -> Found:
    """Image name -> its boxes as (class, x0, y0, x1, y1), rounded."""
    dataset = parse_declaration("mine", node)
    classes = dataset.classes()
    return {
        Path(record["file_name"]).name: [
            (classes[a["category_id"]], *(round(float(v), 1) for v in a["bbox"]))
            for a in record["annotations"]
        ]
        for record in dataset.labeled_records()
    }


def problem(node: Dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read(node)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- YOLO


def yolo(root: Path, *lines: str, names: Any = ("cat", "dog"), **more: Any) -> Dict[str, Any]:
    save_image(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    names = list(names) if isinstance(names, tuple) else names
    content = {"train": "images/train", "val": "images/val", "names": names, **more}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root / "data.yaml")}


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


# ---- CVAT


def cvat_file(
    root: Path, shapes: str, labels: str = "<name>cat</name>", **more: str
) -> Dict[str, Any]:
    save_image(root / "a.jpg")
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><labels><label>{labels}</label></labels></task></meta>"
        f'<image id="0" name="a.jpg" width="100" height="80"{attributes}>{shapes}</image></annotations>'
    )
    return {"FORMAT": "cvat", "ANNOTATIONS": str(root / "annotations.xml")}


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


# ---- LabelMe


def labelme_file(root: Path, *shapes: Any, **more: Any) -> Dict[str, Any]:
    save_image(root / "a.jpg")
    content = {"shapes": list(shapes), "imagePath": "a.jpg", **more}
    (root / "a.json").write_text(json.dumps(content))
    return {"FORMAT": "labelme", "ANNOTATIONS": str(root)}


def shape(points: Any, kind: Any = "rectangle", label: Any = "cat") -> Dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


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


# ---- Label Studio


def studio(root: Path, *tasks: Any) -> Dict[str, Any]:
    save_image(root / "a.jpg")
    (root / "export.json").write_text(json.dumps(list(tasks)))
    return {"FORMAT": "label_studio", "ANNOTATIONS": str(root / "export.json")}


def task(*values: Any, image: str = "a.jpg", **more: Any) -> Dict[str, Any]:
    result = [{"type": "rectanglelabels", "value": value} for value in values]
    return {"data": {"image": image}, "annotations": [{"result": result, **more}]}


@pytest.mark.parametrize(
    "value, expected",
    [
        ({"x": 10, "y": 25, "width": 20, "height": 25}, (10, 20, 30, 40)),
        # Turned by 90 degrees about the top left corner, 20 x 40 pixels lie to its left.
        ({"x": 50, "y": 25, "width": 20, "height": 50, "rotation": 90}, (10, 20, 50, 40)),
        ({"points": [[10, 25], [30, 30], [20, 50]]}, (10, 20, 30, 40)),
        ({"x": 50, "y": 50, "radiusX": 20, "radiusY": 12.5}, (30, 30, 70, 50)),
        ({"x": -3, "y": 25, "width": 20, "height": 80}, (-3, 20, 17, 84)),
    ],
)
def test_label_studio_region(
    value: Dict[str, Any], expected: Tuple[float, ...], tmp_path: Path
) -> None:
    kind = "polygonlabels" if "points" in value else "rectanglelabels"
    node = studio(tmp_path, task({**value, kind: ["cat"]}))
    assert read(node) == {"a.jpg": [("cat", *expected)]}


GOOD = {"x": 10, "y": 25, "width": 20, "height": 25, "rectanglelabels": ["cat"]}


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/0a1b2c3d-a.jpg",
        "/data/local-files/?d=set%201/a.jpg",
        "s3://bucket/folder/a.jpg",
        "https://example.org/x/a.jpg?width=100",
        "C:\\photos\\a.jpg",
    ],
)
def test_label_studio_image(image: str, tmp_path: Path) -> None:
    assert list(read(studio(tmp_path, task(GOOD, image=image)))) == ["a.jpg"]


def test_label_studio_annotations_that_count(tmp_path: Path) -> None:
    box = {**GOOD, "rectanglelabels": ["dog"]}
    first, second = task(GOOD)["annotations"][0], task(box)["annotations"][0]
    both = {"data": {"image": "a.jpg"}, "predictions": [{"result": []}]}
    early, late = {**first, "updated_at": "2026-01-02"}, {**second, "updated_at": "2026-01-03"}
    latest = studio(tmp_path / "1", {**both, "annotations": [late, early]})
    assert read(latest)["a.jpg"][0][0] == "dog"
    chosen = {**early, "ground_truth": True}
    assert (
        read(studio(tmp_path / "2", {**both, "annotations": [late, chosen]}))["a.jpg"][0][0]
        == "cat"
    )
    cancelled = [early, {**late, "was_cancelled": True}]
    assert read(studio(tmp_path / "3", {**both, "annotations": cancelled}))["a.jpg"][0][0] == "cat"
    assert "no labelled image" in problem(studio(tmp_path / "4", {**both, "annotations": []}))
    assert read(studio(tmp_path / "5", {**both, "annotations": [{"result": []}]})) == {"a.jpg": []}


def test_label_studio_json_min(tmp_path: Path) -> None:
    save_image(tmp_path / "b.jpg")
    node = studio(tmp_path, {"image": "a.jpg", "id": 1, "tag": [GOOD]}, {"image": "b.jpg", "id": 2})
    assert read(node) == {"a.jpg": [("cat", 10, 20, 30, 40)]}


def test_label_studio_regions_that_are_no_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brush = {"format": "rle", "rle": [1, 2], "brushlabels": ["cat"]}
    point = {"x": 1, "y": 2, "width": 0.5, "keypointlabels": ["cat"]}
    two = {**GOOD, "rectanglelabels": ["cat", "dog"]}
    node = studio(tmp_path, task(GOOD, brush, point, {"choices": ["sharp"]}, two, {"x": "1"}))
    assert [box[0] for box in read(node)["a.jpg"]] == ["cat", "cat", "dog"]
    assert "skipped 2 unusable boxes (2 of a shape that has no box)" in caplog.text
    (tmp_path / "export.json").write_text('{"images": []}')
    assert "no export of Label Studio" in problem(node)


# ---- CSV


@pytest.mark.parametrize(
    "lines",
    [
        ["image,x1,y1,x2,y2,label", "a.jpg,10,20,30,40,cat"],
        ["Image Name;X Min;Y Min;X Max;Y Max;Class Name", "a.jpg;10,0;20,0;30,0;40,0;cat"],
        ["path\tleft\ttop\twidth\theight\tcategory", "a.jpg\t10\t20\t20\t20\tcat"],
        ["ImageID,Source,LabelName,XMin,XMax,YMin,YMax", "a,x,cat,0.1,0.3,0.25,0.5"],
        ["image_id,width,height,bbox,class", 'a,100,80,"[10, 20, 20, 20]",cat'],
        ["x/a.jpg,10,20,30,40,cat"],
        ["TRAIN,gs://b/a.jpg,cat,0.1,0.25,,,0.3,0.5,,"],
        ["filename,xmin,ymin,xmax,ymax,class", "a.jpg,30,40,10,20,cat"],  # reversed
        ["\ufefffilename,xmin,ymin,xmax,ymax,class", "", "a.jpg,10,20,30,40, cat "],
    ],
)
def test_csv_columns(lines: List[str], tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    node = {"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "t.csv")}
    assert read(node) == {"a.jpg": [("cat", 10, 20, 30, 40)]}


@pytest.mark.parametrize(
    "text, words",
    [
        ("filename,xmin,ymin,xmax,class\na.jpg,1,2,3,cat", "none is the box"),
        ("a,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4", "none is the image"),
        ("a.jpg,1,2,3", "has no header"),
        ("", "is empty"),
        ("filename,xmin,ymin,xmax,ymax\nb.jpg,1,2,3,4", "none of them for an image below"),
    ],
)
def test_csv_is_refused(text: str, words: str, tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text(text)
    assert words in problem({"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "t.csv")})


def test_csv_rows_that_are_no_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        save_image(tmp_path / f"{name}.jpg")
    lines = ["filename,x,y,w,h,set", "a.jpg,1,2,30,40,train", "a.jpg,1,2,-3,4,train"]
    lines += ["a.jpg,1,x,3,4,train", "b.jpg,,,,,train", "b.jpg,1,2,3,4,val", "a.jpg"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    node = {"FORMAT": "csv", "ANNOTATIONS": str(tmp_path / "t.csv"), "SPLIT": "train"}
    assert read(node) == {"a.jpg": [("object", 1, 2, 31, 42)], "b.jpg": []}
    assert "(1 no area, 1 not four finite numbers): line 3, line 4" in caplog.text
    assert "no rows of the split 'test'" in problem({**node, "SPLIT": "test"})


# ---- VOC without ImageSets


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
