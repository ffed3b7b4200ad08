"""The command that divides a dataset."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layouts import WRITERS
from ssod.data.splits import HASH_KEY, content_hash, write_files
from ssod.data.stored_labels import attach_stored_labels
from ssod.errors import UserError
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


def test_true_labels_are_taken_as_stored_pseudo_labels(tmp_path):
    source = json.loads(Path(write_coco(tmp_path / "all.json")).read_text())
    source["annotations"][5]["iscrowd"] = source["annotations"][6]["iscrowd"] = 1
    (tmp_path / "all.json").write_text(json.dumps(source))
    options = ["--coco", str(tmp_path / "all.json"), "--percent", "10", "--prefix"]
    main([*options, str(tmp_path / "mine"), "--truth", "--true-labels"])
    path = tmp_path / "mine_10pct_fold0_unlabeled_true_labels.json"
    truth = read(tmp_path / "mine_10pct_fold0_unlabeled_truth.json")
    wanted = [a["image_id"] for a in truth["annotations"] if not a["iscrowd"]]
    assert len(wanted) < len(truth["annotations"])
    records = [{"file_name": f"/x/{image['file_name']}"} for image in truth["images"]]
    kept = attach_stored_labels(records, str(path), ["even", "odd"])
    assert len(kept) == len(truth["images"])  # an image of crowds alone is listed as empty
    boxes = [record["stored"]["boxes"].tolist() for record in kept]
    assert sum(boxes, []) == [[1, 1, 5, 5]] * len(wanted)
    assert {score for r in kept for score in r["stored"]["scores"].tolist()} == {1.0}


def test_all_images_stay_labelled_at_100_percent(tmp_path, capsys):
    source, prefix = write_coco(tmp_path / "all.json"), tmp_path / "out" / "mine"
    main(["--coco", source, "--percent", "100", "--truth", "--prefix", str(prefix)])
    (path,) = prefix.parent.iterdir()
    assert path.name == "mine_100pct_fold0_labeled.json" and len(read(path)["images"]) == 40
    assert "mine_100pct_fold0_unlabeled.json: no image is left for it" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--coco", source, "--percent", "101", "--prefix", str(prefix)])


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


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_any_format(writer, tmp_path, capsys):
    truth = {f"{i}.jpg": [("dog" if i % 2 else "cat", 10, 20, 40, 60)] for i in range(8)}
    writer(tmp_path / "set", {**truth, "z.jpg": None})
    options = ["--data", str(tmp_path / "set"), "--percent", "50", "--prefix", str(tmp_path / "s")]
    main(options)
    out = capsys.readouterr().out
    labeled = read(tmp_path / "s_50pct_fold0_labeled.json")
    unlabeled = read(tmp_path / "s_50pct_fold0_unlabeled.json")
    assert len(labeled["images"]) == 4
    # A table does not list the image without labels.
    assert len(unlabeled["images"]) == (4 if writer.__name__ == "table" else 5)
    assert [a["bbox"] for a in labeled["annotations"]] == [[10, 20, 30, 40]] * 4
    assert [c["name"] for c in labeled["categories"]] == ["cat", "dog"]
    root = out.split("IMAGES: ")[1].splitlines()[0]
    files = [image["file_name"] for image in labeled["images"] + unlabeled["images"]]
    assert all(os.path.isfile(os.path.join(root, name)) for name in files)
    ordered = [*options, "--prefix", str(tmp_path / "t"), "--classes", "dog", "cat"]
    if writer.__name__ == "coco":  # whose file fixes the order
        with pytest.raises(SystemExit, match="--classes means nothing to coco"):
            main(ordered)
        return
    main(ordered)
    categories = read(tmp_path / "t_50pct_fold0_labeled.json")["categories"]
    assert [c["name"] for c in categories] == ["dog", "cat"]


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


def write_classes(path, classes_of_images, names, folder=""):
    """One box a class listed; category ids 10, 20, ..."""
    annotations = [
        (i + 1, 10 * (names.index(k) + 1)) for i, row in enumerate(classes_of_images) for k in row
    ]
    content = {
        "images": [
            {"id": i + 1, "file_name": f"{folder}{i}.jpg", "height": 9, "width": 9}
            for i in range(len(classes_of_images))
        ],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": k, "bbox": [1, 1, 4, 4], "area": 16}
            for n, (i, k) in enumerate(annotations)
        ],
        "categories": [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return str(path)


def boxes_of(content):
    names = {c["id"]: c["name"] for c in content["categories"]}
    files = {i["id"]: i["file_name"] for i in content["images"]}
    found = {name: [] for name in files.values()}
    for a in content["annotations"]:
        found[files[a["image_id"]]].append(names[a["category_id"]])
    return found


def assert_nothing_leaks(labeled, unlabeled):
    for key in ("id", "file_name"):
        assert not {i[key] for i in labeled["images"]} & {i[key] for i in unlabeled["images"]}
    assert unlabeled["annotations"] == []


def test_sub_task_of_coco(tmp_path, capsys):
    names = ["person", "dog", "cup", "fork"]
    rows = [["cup", "person"]] * 60 + [["fork", "dog"]] * 40 + [["person", "dog", "cup"]] * 20
    source = write_classes(tmp_path / "all.json", rows, names)
    prefix = tmp_path / "s"
    options = ["--coco", source, "--percent", "10", "--min-boxes-per-class", "5", "--truth"]
    main([*options, "--minority", "person", "dog", "--prefix", str(prefix)])
    stem = "s_minority_10pct_5boxes_fold0"
    labeled, unlabeled, truth = (
        read(tmp_path / f"{stem}_{part}.json")
        for part in ("labeled", "unlabeled", "unlabeled_truth")
    )
    assert_nothing_leaks(labeled, unlabeled)
    found = boxes_of(labeled)
    few = {file for file, classes in found.items() if {"person", "dog"} & set(classes)}
    assert len(found) - len(few) == 12  # 10 percent of 120 images, which all show a majority class
    for file, classes in found.items():
        whole = rows[int(file[:-4])]
        assert sorted(classes) == sorted(whole if file in few else set(whole) - {"person", "dog"})
    flat = [k for file in few for k in found[file]]
    assert min(flat.count("person"), flat.count("dog")) >= 5
    assert all(boxes_of(truth)[file] == rows[int(file[:-4])] for file in boxes_of(truth))
    assert labeled["info"]["ssod_split"]["minority"] == ["person", "dog"]
    assert labeled["info"][HASH_KEY] == content_hash(labeled)
    assert "person (minority)" in capsys.readouterr().out

    main([*options, "--random-minority", "2", "--prefix", str(tmp_path / "r")])
    drawn = read(tmp_path / "r_minority_10pct_5boxes_fold0_labeled.json")["info"]["ssod_split"]
    assert len(drawn["minority"]) == 2
    with pytest.raises(SystemExit, match="no class 'airplane', 'bicycle'"):
        main([*options, "--minority", "voc", "--prefix", str(prefix)])
    with pytest.raises(SystemExit, match=r"fewer boxes: dog \(60\)"):
        main(
            ["--coco", source, "--percent", "10", "--min-boxes-per-class", "61"]
            + ["--minority", "dog", "--prefix", str(prefix)]
        )


def test_minority_that_is_rare_everywhere(tmp_path):
    rows = [["cup", "person"]] * 90 + [["dog"]] * 10
    source = write_classes(tmp_path / "all.json", rows, ["person", "dog", "cup"])
    options = ["--coco", source, "--percent", "10", "--min-boxes-per-class", "1"]
    main([*options, "--minority", "dog", "--all-boxes", "--prefix", str(tmp_path / "s")])
    main([*options, "--prefix", str(tmp_path / "plain")])
    labeled = read(tmp_path / "s_minority_10pct_1boxes_fold0_labeled.json")
    assert labeled["images"] == read(tmp_path / "plain_10pct_1boxes_fold0_labeled.json")["images"]
    assert all(rows[int(file[:-4])] == found for file, found in boxes_of(labeled).items())
    assert labeled["info"]["ssod_split"]["minority"] == ["dog"]


def test_lvis_layout(tmp_path):
    """LVIS names its images by coco_url alone; every class, however rare, has a box among the 10
    percent.
    """
    rows = [["cup"]] * 90 + [["cup", "rare"]] * 3 + [["rarer"]] * 1
    path = tmp_path / "lvis_v1_train.json"
    write_classes(path, rows, ["cup", "rare", "rarer"])
    content = read(path)
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
        image.update(neg_category_ids=[10], not_exhaustive_category_ids=[])
    path.write_text(json.dumps(content))
    prefix = str(tmp_path / "lvis")
    main(["--coco", str(path), "--percent", "10", "--min-boxes-per-class", "1", "--prefix", prefix])
    labeled, unlabeled = (
        read(tmp_path / f"lvis_10pct_1boxes_fold0_{part}.json") for part in ("labeled", "unlabeled")
    )
    assert_nothing_leaks(labeled, unlabeled)
    assert len(labeled["images"]) == 9 and labeled["images"][0]["file_name"].startswith(
        "train2017/"
    )
    assert {k for found in boxes_of(labeled).values() for k in found} == {"cup", "rare", "rarer"}


def test_coco_to_objects365(tmp_path):
    from ssod.data.class_lists import COCO_TO_OBJECTS365

    shared = [names[0].title() for names in dict.fromkeys(COCO_TO_OBJECTS365.values())]
    only_there = ["Sneakers", "Lamp"]
    coco_names = [*COCO_TO_OBJECTS365, "sports ball"]
    (tmp_path / "coco").mkdir()
    coco = write_classes(
        tmp_path / "coco" / "instances.json",
        [["teddy bear", "person"], ["sports ball"], ["tv", "sports ball"]],
        coco_names,
    )
    rows = [["Lamp", "Person"]] * 8 + [["Sneakers"]] * 6 + [["Dog"]] * 10
    target = write_classes(tmp_path / "o.json", rows, [*only_there, *shared], "patch0/")
    main(
        ["--coco", f"{target}=objects365", "--majority-from", f"{coco}=coco/train2017", "--truth"]
        + ["--min-boxes-per-class", "4", "--prefix", str(tmp_path / "x")]
    )
    labeled, unlabeled, truth = (
        read(tmp_path / f"x_minority_4boxes_fold0_{part}.json")
        for part in ("labeled", "unlabeled", "unlabeled_truth")
    )
    assert_nothing_leaks(labeled, unlabeled)
    assert len(labeled["categories"]) == 80 and labeled["categories"][0]["name"] == "Sneakers"
    found = boxes_of(labeled)
    from_coco = {file: k for file, k in found.items() if file.startswith("coco/train2017/")}
    assert (
        from_coco
        == {  # all of COCO, in the other classes; an image of sports balls alone has no labels
            "coco/train2017/0.jpg": ["Bear", "Person"],
            "coco/train2017/2.jpg": ["Moniter/Tv"],
        }
    )
    drawn = {file: k for file, k in found.items() if file not in from_coco}
    assert len(drawn) == 8 and all(file.startswith("objects365/patch0/") for file in drawn)
    assert all(k == rows[int(file.split("/")[-1][:-4])] for file, k in drawn.items())
    assert len(unlabeled["images"]) == 24 - 8 == len(truth["images"])
    assert labeled["info"]["ssod_split"]["minority"] == only_there
    assert labeled["info"]["ssod_split"]["source"] == ["o.json", "instances.json"]


def test_share_of_a_folder(tmp_path):
    for i in range(20):
        path = tmp_path / "imagenet" / f"n{i % 3}" / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    options = ["--folder", str(tmp_path / "imagenet"), "--percent", "20", "--prefix"]
    main([*options, str(tmp_path / "s")])
    drawn = read(tmp_path / "s_20pct_fold0_unlabeled.json")
    assert len(drawn["images"]) == 4 and not (tmp_path / "s_20pct_fold0_labeled.json").exists()
    for image in drawn["images"]:
        assert (tmp_path / "imagenet" / image["file_name"]).exists()
    with pytest.raises(SystemExit, match="holds no image files"):
        (tmp_path / "empty").mkdir()
        main(["--folder", str(tmp_path / "empty"), "--percent", "20", "--prefix", "s"])


def test_prefixes_that_name_no_file(tmp_path):
    file = tmp_path / "a.json"
    write_files({file: {"a": 1}})
    for path, words in ((file / "b.json", "Cannot write"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=words):
            write_files({path: {}}, force=True)
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match="exists with other content"):
        write_files({file: {}})


@pytest.mark.parametrize(
    "options, message",
    [
        (["--minority", "a", "--prefix", "."], "--prefix must end in a name"),
        (["--minority", "a"], "need --percent and --min-boxes-per-class"),
        (["--minority", "a", "--random-minority", "2"], "exclude one another"),
        (["--random-minority", "0", "--percent", "10"], "must be at least 1"),
        (["--majority-from", "b.json", "--percent", "10"], "takes no --percent"),
        (["--all-boxes", "--percent", "10"], "goes with --minority"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["--coco", "a.json", "--prefix", "s", *options])
    assert message in capsys.readouterr().err
