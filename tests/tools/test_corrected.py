"""make_splits --corrected: corrected labels move their images to the labelled set."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import yaml
from detectron2.config import CfgNode

from layouts import CLASSES, WRITERS, Writer, accept_predictions, coco, cvat, labelme, save_image
from runs import train
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.declarations import parse_declaration
from ssod.data.formats.writing.labels import LabelSet, ScoredBox, ScoredImage
from ssod.data.formats.writing.registry import WRITERS as TOOLS
from ssod.data.formats.writing.registry import write_labels_for
from ssod.data.splits import HASH_KEY, verified_hash
from ssod.engine.setup import load_config
from ssod.tools.make_splits import main
from tiny import tiny_cfg

PHOTOS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "sub/e.jpg", "seen.jpg"]
TRUTH: Dict[str, Any] = {
    "a.jpg": [("cat", 10, 20, 40, 60), ("dog", 50, 10, 90, 30)],
    "sub/e.jpg": [("dog", 0, 0, 100, 80)],
}


def declare(root: Path, name: str, images: List[str], boxes: bool = False) -> Dict[str, Any]:
    """A split file as make_splits leaves it."""
    from ssod.data.splits import sealed

    content: Dict[str, Any] = {
        "info": {"ssod_split": {"part": name}},
        "images": [
            {"id": 10 + PHOTOS.index(path), "file_name": path, "height": 80, "width": 100}
            for path in images
        ],
        "annotations": [],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    for image in content["images"] if boxes else ():
        content["annotations"].append(
            {"id": 4, "image_id": image["id"], "category_id": 9, "bbox": [1, 2, 30, 40]}
        )
        content["annotations"][-1].update(
            area=1200, iscrowd=0, segmentation=[[1, 2, 31, 2, 31, 42]]
        )
    (root / f"{name}.json").write_text(json.dumps(sealed(content)))
    return {
        "FORMAT": "coco",
        "ANNOTATIONS": str(root / f"{name}.json"),
        "IMAGES": str(root / "photos"),
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Photographs, one of them labelled, and a config."""
    for path in PHOTOS:
        save_image(tmp_path / "photos" / path)
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.SSOD.DATASETS.mine_labeled = CfgNode(declare(tmp_path, "labeled", ["seen.jpg"], True))
    cfg.SSOD.DATASETS.mine_unlabeled = CfgNode(declare(tmp_path, "unlabeled", PHOTOS[:5]))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("mine_labeled",), ()
    cfg.DATASETS.UNLABELED = ("mine_unlabeled",)
    cfg.SSOD.METHODS = ("ScoreThreshold",)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path


def take_back(project: Path, corrected: Path, *more: str, prefix: Optional[str] = "new") -> None:
    options = ["--prefix", str(project / prefix)] if prefix else []
    config = str(project / "config.yaml")
    main(["--corrected", str(corrected), "--config-file", config, *options, *more])


def labels_of(node: Dict[str, Any]) -> Dict[str, Any]:
    dataset = parse_declaration("x", node)
    names, root = dataset.classes(), Path(node["IMAGES"])
    found = {}
    for record in dataset.labeled_records():
        rows = []
        for a in record["annotations"]:
            x, y, w, h = a["bbox"]
            rows.append((names[a["category_id"]], x, y, x + w, y + h))
        found[str(Path(record["file_name"]).relative_to(root))] = rows
    return found


def new_node(project: Path, part: str) -> Dict[str, Any]:
    path = project / f"new_{part}.json"
    verified_hash(str(path))
    assert HASH_KEY in json.loads(path.read_text())["info"]
    return {"FORMAT": "coco", "ANNOTATIONS": str(path), "IMAGES": str(project / "photos")}


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_files_of_every_tool(writer: Writer, project: Path, tmp_path: Path) -> None:
    """Files as the tools write them, with copies of the images."""
    node = writer(project / "export", TRUTH, project / "photos")
    corrected = project / "export"
    if "ANNOTATIONS" in node and Path(node["ANNOTATIONS"]).is_file():
        corrected = Path(node["ANNOTATIONS"])
    take_back(project, corrected)
    found = labels_of(new_node(project, "labeled"))
    assert found.pop("seen.jpg") == [("dog", 1, 2, 31, 42)]
    assert set(found) == set(TRUTH)
    for path, boxes in found.items():
        for box, expected in zip(boxes, TRUTH[path]):
            assert box[0] == expected[0] and box[1:] == pytest.approx(expected[1:], abs=1e-3)
    left = parse_declaration("x", new_node(project, "unlabeled")).unlabeled_records()
    assert [Path(r["file_name"]).name for r in left] == ["b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize("writer", [cvat, coco], ids=lambda writer: writer.__name__)
def test_a_file_alone(writer: Writer, project: Path, tmp_path: Path) -> None:
    """Exports without images: those of the set are taken."""
    node = writer(project / "export", TRUTH, project / "photos")
    alone = project / "downloads" / Path(node["ANNOTATIONS"]).name
    alone.parent.mkdir()
    alone.write_bytes(Path(node["ANNOTATIONS"]).read_bytes())
    take_back(project, alone)
    assert set(labels_of(new_node(project, "labeled"))) == {"seen.jpg", *TRUTH}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_label_writes_comes_back(tool: str, project: Path) -> None:
    images = [
        ScoredImage(path, (80, 100), [ScoredBox(CLASSES.index(k), c, 0.5) for k, *c in boxes])
        for path, boxes in TRUTH.items()
    ]
    images.append(ScoredImage("b.jpg", (80, 100)))  # nobody has drawn a box on it
    labels = LabelSet(str(project / "photos"), list(CLASSES), images)
    write_labels_for(tool, labels, str(project / "out"))
    if tool == "labelstudio":
        accept_predictions(project / "out" / "tasks.json")
    take_back(project, project / "out")
    found = labels_of(new_node(project, "labeled"))
    assert set(found) == {"seen.jpg", *TRUTH}
    assert found["a.jpg"][1] == ("dog", 50, 10, 90, 30)


def test_the_same_config_trains(project: Path, capsys: pytest.CaptureFixture) -> None:
    corrected = coco(project / "export", TRUTH, project / "photos")["ANNOTATIONS"]
    take_back(project, Path(corrected))
    printed = capsys.readouterr().out
    assert "2 images moved to mine_labeled, 0 of them without objects" in printed
    assert "boxes: cat 0 -> 1, dog 1 -> 3" in printed
    cfg = load_config(str(project / "config.yaml"))
    cfg.merge_from_list(printed.split("end the command with: ")[1].split())
    assert len(load_labeled(cfg)) == 3 and len(load_unlabeled(cfg)) == 3
    # And so do the lines that it prints for the config.
    lines = yaml.safe_load(printed.split("say:\n")[1].split("\n\n")[0])
    assert lines["mine_labeled"] == {k: v for k, v in cfg.SSOD.DATASETS.mine_labeled.items()}
    content = json.loads((project / "new_labeled.json").read_text())
    # The file's content stays: ids, masks, and the description of the draw.
    assert [i["id"] for i in content["images"]] == [15, 10, 14]
    assert "segmentation" in content["annotations"][0]
    assert content["info"]["ssod_split"] == {"part": "labeled"}
    assert content["info"]["ssod_corrected"] == [{"file": "instances.json", "images": 2}]
    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 2, str(project / "run")
    train(cfg)


def test_in_place(project: Path, capsys: pytest.CaptureFixture) -> None:
    corrected = Path(coco(project / "export", TRUTH, project / "photos")["ANNOTATIONS"])
    take_back(project, corrected, "--force", prefix=None)
    cfg = load_config(str(project / "config.yaml"))
    assert len(load_labeled(cfg)) == 3 and len(load_unlabeled(cfg)) == 3
    verified_hash(str(project / "labeled.json"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="no labels for an image of mine_unlabeled"):
        take_back(project, corrected, "--force", prefix=None)
    assert "2 images are labelled already: a.jpg, sub/e.jpg" in capsys.readouterr().out


def test_images_that_stay_are_counted_and_listed(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    save_image(project / "other" / "new.jpg")
    source = project / "photos"
    save_image(source / "new.jpg")
    truth = {**TRUTH, "b.jpg": None, "seen.jpg": TRUTH["a.jpg"], "new.jpg": TRUTH["a.jpg"]}
    take_back(project, Path(cvat(project / "export", truth, source)["ANNOTATIONS"]))
    printed = capsys.readouterr().out
    assert "1 images have no box and stay unlabelled: b.jpg" in printed
    assert "1 images are labelled already: seen.jpg" in printed
    assert "1 images are in no image set: new.jpg" in printed
    assert "2 images moved" in printed


def test_an_image_labelled_as_empty_moves(project: Path, capsys: pytest.CaptureFixture) -> None:
    labelme(project / "export", {"c.jpg": []}, project / "photos")
    labelme(project / "export", {**TRUTH, "c.jpg": []}, project / "photos")
    take_back(project, project / "export")
    assert "3 images moved to mine_labeled, 1 of them without objects" in capsys.readouterr().out
    assert labels_of(new_node(project, "labeled"))["c.jpg"] == []


def test_test_images_stay(project: Path, capsys: pytest.CaptureFixture) -> None:
    """A folder of unlabelled images that holds the test images too."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["SSOD"]["DATASETS"]["mine_test"] = declare(project, "test", ["a.jpg"], True)
    folder = {"FORMAT": "folder", "IMAGES": str(project / "photos")}
    config["SSOD"]["DATASETS"]["mine_unlabeled"] = folder
    config["DATASETS"]["TEST"] = ["mine_test"]
    (project / "config.yaml").write_text(yaml.safe_dump(config))
    corrected = Path(coco(project / "export", TRUTH, project / "photos")["ANNOTATIONS"])
    with pytest.raises(SystemExit, match="add --prefix"):
        take_back(project, corrected, "--force", prefix=None)
    take_back(project, corrected)
    printed = capsys.readouterr().out
    assert "1 images are in DATASETS.TEST, and would spoil it: a.jpg" in printed
    assert "mine_unlabeled: {FORMAT:" in printed and "or end the command" not in printed
    left = json.loads((project / "new_unlabeled.json").read_text())["images"]
    assert "sub/e.jpg" not in {image["file_name"] for image in left} and len(left) == 5


def test_a_labelled_image_of_the_same_name_is_not_mixed_up(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    """seen.jpg is labelled; other/seen.jpg is not."""
    save_image(project / "photos" / "other" / "seen.jpg")
    PHOTOS.append("other/seen.jpg")
    try:
        declare(project, "unlabeled", PHOTOS[:5] + ["other/seen.jpg"])
    finally:
        PHOTOS.pop()
    truth = {"seen.jpg": TRUTH["a.jpg"], "other/seen.jpg": TRUTH["sub/e.jpg"]}
    take_back(project, Path(coco(project / "export", truth, project / "photos")["ANNOTATIONS"]))
    assert "1 images are labelled already: seen.jpg" in capsys.readouterr().out
    found = labels_of(new_node(project, "labeled"))
    assert found["other/seen.jpg"] == TRUTH["sub/e.jpg"] and len(found) == 2


def test_sets_of_one_folder_each(project: Path, capsys: pytest.CaptureFixture) -> None:
    """As the digit scenes have them: the same names below two folders."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    save_image(project / "more" / "seen.jpg")
    content = json.loads((project / "unlabeled.json").read_text())
    content["images"] = [{"id": 1, "file_name": "seen.jpg", "height": 80, "width": 100}]
    del content["info"][HASH_KEY]
    (project / "more.json").write_text(json.dumps(content))
    sets = config["SSOD"]["DATASETS"]
    sets["mine_unlabeled"]["ANNOTATIONS"] = str(project / "more.json")
    sets["mine_unlabeled"]["IMAGES"] = str(project / "more")
    save_image(project / "more" / "left.jpg")
    content["images"].append({"id": 2, "file_name": "left.jpg"})
    (project / "more.json").write_text(json.dumps(content))
    (project / "config.yaml").write_text(yaml.safe_dump(config))
    labels = LabelSet(
        str(project / "more"),
        list(CLASSES),
        [ScoredImage("seen.jpg", (80, 100), [ScoredBox(0, (1, 2, 3, 4))])],
    )
    write_labels_for("coco", labels, str(project / "out"))
    take_back(project, project / "out")
    printed = capsys.readouterr().out
    cfg = load_config(str(project / "config.yaml"))
    cfg.merge_from_list(printed.split("end the command with: ")[1].split())
    files = [str(Path(r["file_name"]).resolve()) for r in load_labeled(cfg)]
    assert files == [str(project / "more" / "seen.jpg"), str(project / "photos" / "seen.jpg")]
    assert [Path(r["file_name"]).name for r in load_unlabeled(cfg)] == ["left.jpg"]


def test_sets_with_different_folders(project: Path, capsys: pytest.CaptureFixture) -> None:
    config = yaml.safe_load((project / "config.yaml").read_text())
    save_image(project / "more" / "f.jpg")
    more = {"FORMAT": "folder", "IMAGES": str(project / "more")}
    config["SSOD"]["DATASETS"]["mine_more"] = more
    config["DATASETS"]["UNLABELED"] = ["mine_unlabeled", "mine_more"]
    (project / "config.yaml").write_text(yaml.safe_dump(config))
    corrected = coco(project / "export", {"f.jpg": TRUTH["a.jpg"]}, project / "more")
    take_back(project, Path(corrected["ANNOTATIONS"]))
    printed = capsys.readouterr().out
    assert "mine_more has no image left: take it out of DATASETS.UNLABELED" in printed
    content = json.loads((project / "new_labeled.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["photos/seen.jpg", "more/f.jpg"]
    assert not (project / "new_unlabeled.json").exists()


@pytest.mark.parametrize(
    "label, message",
    [("Dog", "did you mean 'dog'"), ("horse", "classes that DATASETS.TRAIN has not .horse.")],
)
def test_classes_that_do_not_exist(label: str, message: str, project: Path) -> None:
    truth = {"a.jpg": [(label, 10, 20, 40, 60)]}
    corrected = coco(project / "export", truth, project / "photos", [*CLASSES, label])
    with pytest.raises(SystemExit, match=message):
        take_back(project, Path(corrected["ANNOTATIONS"]))
    assert not (project / "new_labeled.json").exists()


def test_other_mistakes(project: Path, capsys: pytest.CaptureFixture) -> None:
    corrected = Path(coco(project / "export", TRUTH, project / "photos")["ANNOTATIONS"])
    with pytest.raises(SystemExit, match="nowhere.json does not exist"):
        take_back(project, project / "nowhere.json")
    with zipfile.ZipFile(project / "export.zip", "w") as archive:
        archive.write(corrected, "annotations.json")
    with pytest.raises(SystemExit, match="is an archive: unpack it"):
        take_back(project, project / "export.zip")
    (project / "text.json").write_text("[]")
    with pytest.raises(SystemExit, match="has no labels of COCO"):
        take_back(project, project / "text.json")
    take_back(project, corrected)
    take_back(project, corrected)  # the same files again: nothing changes
    with pytest.raises(SystemExit, match="exists with other content"):
        main_args = {"a.jpg": TRUTH["a.jpg"]}
        other = coco(project / "second", main_args, project / "photos")["ANNOTATIONS"]
        take_back(project, Path(other))
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["DATASETS"]["UNLABELED"] = []
    (project / "labelled_only.yaml").write_text(yaml.safe_dump(config))
    alone = ["--corrected", str(corrected), "--prefix", str(project / "x")]
    alone += ["--config-file", str(project / "labelled_only.yaml")]
    with pytest.raises(SystemExit, match="UNLABELED is empty: name a set"):
        main(alone)
    main([*alone, "--dataset", "mine_unlabeled"])
    edited = json.loads((project / "unlabeled.json").read_text())
    edited["images"].pop()
    (project / "unlabeled.json").write_text(json.dumps(edited))
    with pytest.raises(SystemExit, match="was changed after make_splits wrote it"):
        take_back(project, corrected, prefix="third")
    for arguments in (
        ["--corrected", "x", "--prefix", "y"],
        ["--corrected", "x", "--config-file", "y"],
        ["--corrected", "x", "--config-file", "y", "--prefix", "z", "--percent", "5"],
        ["--coco", "x", "--percent", "5", "--prefix", "z", "--config-file", "y"],
        ["--coco", "x", "--percent", "5"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
