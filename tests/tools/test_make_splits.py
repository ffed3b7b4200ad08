"""The command that divides a dataset."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ssod.data.splits import HASH_KEY, content_hash
from ssod.tools.make_splits import main


def write_coco(path, images=40, start=0):
    annotations = [
        {
            "id": i,
            "image_id": i + 1,
            "category_id": i % 2,
            "bbox": [1, 1, 4, 4],
            "area": 16,
            "iscrowd": 0,
        }
        for i in range(images)
    ]
    content = {
        "info": {"year": 2017},
        "images": [
            {"id": i + 1, "file_name": f"{start + i}.png", "height": 9, "width": 9}
            for i in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "even"}, {"id": 1, "name": "odd"}],
    }
    path.write_text(json.dumps(content))
    return str(path)


def read(path):
    return json.loads(path.read_text())


def test_percentages_and_folds(tmp_path, capsys):
    source, prefix = write_coco(tmp_path / "all.json"), tmp_path / "out" / "mine"
    arguments = ["--coco", source, "--percent", "5", "50", "--folds", "2", "--prefix", str(prefix)]
    main([*arguments, "--truth"])
    assert len(list(prefix.parent.iterdir())) == 12
    labeled = read(prefix.with_name("mine_5pct_fold1_labeled.json"))
    unlabeled = read(prefix.with_name("mine_5pct_fold1_unlabeled.json"))
    truth = read(prefix.with_name("mine_5pct_fold1_unlabeled_truth.json"))
    assert len(labeled["images"]) == 2 and len(unlabeled["images"]) == 38
    assert len(labeled["annotations"]) == 2 and unlabeled["annotations"] == []
    assert truth["images"] == unlabeled["images"] and len(truth["annotations"]) == 38
    for content in (labeled, unlabeled, truth):
        assert content["info"][HASH_KEY] == content_hash(content)
    table = capsys.readouterr().out
    assert "odd" in table and "5pct_fold1" in table and "written" in table

    main(arguments)
    assert "unchanged" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists with other content"):
        main([*arguments, "--seed", "1"])
    main([*arguments, "--seed", "1", "--force"])
    assert read(prefix.with_name("mine_5pct_fold1_labeled.json")) != labeled


def test_result_does_not_depend_on_the_hash_seed(tmp_path):
    options = ["--coco", write_coco(tmp_path / "all.json"), "--percent", "20"]
    options += ["--min-boxes-per-class", "3", "--prefix"]
    main([*options, str(tmp_path / "here")])
    subprocess.run(
        [sys.executable, "-m", "ssod.tools.make_splits", *options, str(tmp_path / "there")],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    here, there = (tmp_path / f"{n}_20pct_3boxes_fold0_labeled.json" for n in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_voc_layout(tmp_path):
    root = tmp_path / "cells"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "JPEGImages" / f"{i}.jpg")
        (root / "Annotations" / f"{i}.xml").write_text(
            "<annotation><object><name>RBC</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax>"
            "<ymax>12</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n3\n")
    main(["--voc", str(root), "--min-boxes-per-class", "2", "--prefix", str(tmp_path / "s")])
    labeled = read(tmp_path / "s_2boxes_fold0_labeled.json")
    assert len(labeled["images"]) == 2
    image = labeled["images"][0]
    assert (image["height"], image["width"], image["file_name"][1:]) == (20, 30, ".jpg")
    assert labeled["annotations"][0]["bbox"] == [0, 1, 11, 11]
    assert labeled["categories"] == [{"id": 1, "name": "RBC"}]
    assert len(read(tmp_path / "s_2boxes_fold0_unlabeled.json")["images"]) == 2


def test_several_files_get_their_folders(tmp_path):
    a, b = write_coco(tmp_path / "a.json"), write_coco(tmp_path / "b.json")
    prefix = str(tmp_path / "s")
    with pytest.raises(SystemExit, match="0.png is listed twice"):
        main(["--coco", a, b, "--percent", "10", "--prefix", prefix])
    main(["--coco", f"{a}=x", f"{b}=y", "--percent", "10", "--prefix", prefix, "--truth"])
    parts = [
        read(tmp_path / f"s_10pct_fold0_{part}.json") for part in ("labeled", "unlabeled_truth")
    ]
    images = [image for part in parts for image in part["images"]]
    assert len({image["id"] for image in images}) == 80
    assert {image["file_name"].split("/")[0] for image in images} == {"x", "y"}
    names = {image["id"]: image["file_name"] for image in images}
    for annotation in parts[0]["annotations"] + parts[1]["annotations"]:
        number = int(names[annotation["image_id"]].split("/")[1][:-4])
        assert annotation["category_id"] == number % 2


def test_unbiased_teacher_seeds(tmp_path):
    source, seeds = write_coco(tmp_path / "all.json"), tmp_path / "seeds.txt"
    seeds.write_text(json.dumps({"5.0": {"1": [3, 39], "2": [0, 1]}, "2.5": {"1": [7]}}))
    arguments = [
        "--coco",
        source,
        "--unbiased-teacher-seeds",
        str(seeds),
        "--prefix",
        str(tmp_path / "s"),
    ]
    main(arguments)
    assert [i["id"] for i in read(tmp_path / "s_5pct_seed1_labeled.json")["images"]] == [4, 40]
    assert [i["id"] for i in read(tmp_path / "s_2.5pct_seed1_labeled.json")["images"]] == [8]
    with pytest.raises(SystemExit, match="no draws for 10 percent: use one of 2.5, 5"):
        main([*arguments, "--percent", "10"])
    seeds.write_text("[1]")
    with pytest.raises(SystemExit, match="is no seed file"):
        main(arguments)


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            {"annotations": [{"id": 5, "image_id": 99, "category_id": 0, "bbox": [1, 1, 2, 2]}]},
            "image_id 99",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2]}]},
            "category_id 7",
        ),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 0, "bbox": [1]}]}, r"bbox \[1\]"),
        ({"annotations": []}, "no image has a usable box"),
        ({"images": []}, "lists no images"),
    ],
)
def test_errors_are_one_line_that_names_the_file(tmp_path, change, expected):
    source = tmp_path / "all.json"
    write_coco(source)
    source.write_text(json.dumps({**read(source), **change}))
    with pytest.raises(SystemExit, match=expected) as caught:
        main(["--coco", str(source), "--percent", "10", "--prefix", str(tmp_path / "s")])
    assert "\n" not in str(caught.value) and str(source) in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("options", [[], ["--percent", "0"], ["--percent", "1", "--folds", "0"]])
def test_bad_options_end_the_program(tmp_path, options):
    with pytest.raises(SystemExit):
        main(["--coco", "x.json", "--prefix", str(tmp_path / "s"), *options])
