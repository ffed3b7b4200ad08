"""Datasets declared in the config: what is loaded, and what a user reads when something is
wrong.
"""

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssod.config import add_ssod_config
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.data.readings import register_datasets
from ssod.data.records import Record, read_image_size
from ssod.data.splits import check_split_hashes
from ssod.errors import UserError

from detectron2.config import CfgNode, get_cfg  # isort: skip
from detectron2.data import DatasetCatalog, MetadataCatalog  # isort: skip
from detectron2.structures import BoxMode  # isort: skip

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def save_image(path, height=40, width=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def annotation(number, image, category, bbox, **more):
    area = bbox[2] * bbox[3] if len(bbox) == 4 else 0
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "area": area,
        "iscrowd": 0,
        **more,
    }


def write_coco(folder, name="train", annotations=None, categories=CATEGORIES, images=3):
    for i in range(images):
        save_image(folder / "images" / f"{i}.png")
    content = {
        "images": [
            {"id": i + 10, "file_name": f"{i}.png", "height": 40, "width": 60}
            for i in range(images)
        ],
        "annotations": (
            [annotation(1, 10, 3, [1, 2, 10, 20]), annotation(2, 11, 7, [5, 5, 5, 5])]
            if annotations is None
            else annotations
        ),
        "categories": categories,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return {"FORMAT": "coco", "ANNOTATIONS": str(path), "IMAGES": str(folder / "images")}


def write_voc(folder, items):
    """items: stem -> list of (class, xmin, ymin, xmax, ymax); size tags are wrong on purpose."""
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{s}  1\n" for s in items))
    (folder / "Annotations").mkdir()
    for stem, objects in items.items():
        save_image(folder / "JPEGImages" / f"{stem}.png")
        boxes = "".join(
            f"<object><name>{k}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
            f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
            for k, a, b, c, d in objects
        )
        (folder / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>9</width><height>9</height></size>{boxes}</annotation>"
        )
    return {"FORMAT": "voc", "ROOT": str(folder), "SPLIT": "train"}


def make_cfg(train=None, unlabeled=None, classes=2, **more):
    """Each argument is a declaration; it is entered as `t_train`, `t_unlabeled` or under its own
    name.
    """
    cfg = get_cfg()
    add_ssod_config(cfg)
    declared = {"t_train": train, "t_unlabeled": unlabeled, **more}
    for name, declaration in declared.items():
        if declaration is not None:
            cfg.SSOD.DATASETS[name] = CfgNode(declaration)
    cfg.DATASETS.TRAIN = ("t_train",) if train is not None else ()
    cfg.DATASETS.UNLABELED = ("t_unlabeled",) if unlabeled is not None else ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    return cfg


def error_of(function, cfg):
    with pytest.raises(UserError) as caught:
        function(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_coco_is_loaded_with_contiguous_classes(tmp_path):
    cfg = make_cfg(write_coco(tmp_path))
    records = load_labeled(cfg)
    assert [r["image_id"] for r in records] == [10, 11]  # 12 has no box
    assert records[0]["annotations"] == [
        {
            "bbox": [1.0, 2.0, 10.0, 20.0],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 0,
            "iscrowd": 0,
        }
    ]
    assert records[1]["annotations"][0]["category_id"] == 1
    assert records[0]["dataset_name"] == "t_train"
    metadata = MetadataCatalog.get("t_train")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco"
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(load_labeled(cfg)) == 3


def test_detectron2_reads_the_same_records(tmp_path):
    from detectron2.data.datasets import load_coco_json

    declaration = write_coco(tmp_path)
    cfg = make_cfg(declaration)
    register_datasets(cfg)
    expected = load_coco_json(declaration["ANNOTATIONS"], declaration["IMAGES"], "other_name")
    assert DatasetCatalog.get("t_train") == expected
    assert MetadataCatalog.get("t_train").json_file == declaration["ANNOTATIONS"]


def test_several_sets_are_joined(tmp_path):
    cfg = make_cfg(write_coco(tmp_path / "a"), t_second=write_coco(tmp_path / "b"))
    cfg.DATASETS.TRAIN = ("t_train", "t_second")
    found = [(r["dataset_name"], r["image_id"]) for r in load_labeled(cfg)]
    assert found == [("t_train", 10), ("t_train", 11), ("t_second", 10), ("t_second", 11)]


def test_unusable_boxes_are_skipped_and_listed(tmp_path, caplog):
    annotations = [
        annotation(1, 10, 3, [0, 0, 10, 10]),
        annotation(2, 10, 3, [5, 5, 0, 10]),
        annotation(3, 10, 3, [5, 5, -4, 10]),
        annotation(4, 11, 7, [70, 5, 10, 10]),
        annotation(5, 11, 7, [float("nan"), 5, 10, 10]),
        annotation(6, 11, 7, []),
        annotation(7, 99, 7, [5, 5, 10, 10]),
        annotation(8, 11, 7, [50, 30, 30, 30]),  # partly outside: kept
        annotation(9, 11, 7, [0, 0, 60, 40], iscrowd=1),
    ]
    with caplog.at_level(logging.WARNING):
        records = load_labeled(make_cfg(write_coco(tmp_path, annotations=annotations)))
    assert [len(r["annotations"]) for r in records] == [1, 2]
    assert records[1]["annotations"][1]["iscrowd"] == 1
    (message,) = [r.message for r in caplog.records if "skipped" in r.message]
    assert "train.json: skipped 6 unusable boxes" in message
    assert "2 no area" in message and "1 outside of the image" in message
    assert "annotation 2, annotation 3, annotation 4" in message and message.endswith(", ...")


def test_incomplete_annotations_are_converted_for_evaluation(tmp_path):
    broken = annotation(1, 10, 3, [0, 0, 10, 10])
    del broken["area"]
    cfg = make_cfg(write_coco(tmp_path, annotations=[broken, annotation(2, 10, 7, [1, 1, 2, 2])]))
    register_datasets(cfg)
    DatasetCatalog.get("t_train")
    assert not hasattr(MetadataCatalog.get("t_train"), "json_file")


def test_class_without_boxes_is_named(tmp_path, caplog):
    only_cats = [
        annotation(1, 10, 3, [0, 0, 10, 10]),
        annotation(2, 11, 7, [0, 0, 9, 9], iscrowd=1),
    ]
    with caplog.at_level(logging.WARNING):
        load_labeled(make_cfg(write_coco(tmp_path, annotations=only_cats)))
    assert "no box of dog" in caplog.text


def test_unlabeled_sets_never_carry_annotations(tmp_path):
    for declaration in (
        write_coco(tmp_path / "coco"),
        write_voc(tmp_path / "voc", {"a": [("x", 1, 1, 5, 5)], "b": []}),
        {"FORMAT": "folder", "IMAGES": str(tmp_path / "coco" / "images")},
    ):
        records = load_unlabeled(make_cfg(unlabeled=declaration))
        assert len(records) == (2 if declaration["FORMAT"] == "voc" else 3)
        for record in records:
            assert (record["height"], record["width"]) == (40, 60)
            assert set(record) <= {"file_name", "image_id", "height", "width", "dataset_name"}


def test_unlabeled_sets_of_others_lose_all_labels(tmp_path):
    path = tmp_path / "x"
    path.touch()
    secret = {
        "file_name": str(path),
        "image_id": 1,
        "height": 2,
        "width": 3,
        "annotations": [1],
        "sem_seg": 1,
    }
    DatasetCatalog.register("t_foreign", lambda: [dict(secret)])
    try:
        cfg = make_cfg()
        cfg.DATASETS.UNLABELED = ("t_foreign",)
        (record,) = load_unlabeled(cfg)
    finally:
        DatasetCatalog.pop("t_foreign")
    assert dict(record) == {
        "file_name": str(path),
        "image_id": 1,
        "height": 2,
        "width": 3,
        "dataset_name": "t_foreign",
    }


def test_truth_is_never_opened_and_unlabeled_categories_do_not_matter(tmp_path):
    declaration = write_coco(tmp_path, categories=[])
    declaration["TRUTH"] = str(tmp_path / "does_not_exist.json")
    cfg = make_cfg(unlabeled=declaration)
    assert len(load_unlabeled(cfg)) == 3
    assert MetadataCatalog.get("t_unlabeled").truth_file == declaration["TRUTH"]


def test_folder_is_read_recursively_and_lazily(tmp_path):
    save_image(tmp_path / "b.png", 10, 20)
    save_image(tmp_path / "sub" / "a.JPG", 30, 20)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("x")
    save_image(tmp_path / ".hidden.png")
    records = load_unlabeled(make_cfg(unlabeled={"FORMAT": "folder", "IMAGES": str(tmp_path)}))
    names = [str(Path(r["file_name"]).relative_to(tmp_path)) for r in records]
    assert names == ["b.png", "broken.jpg", "sub/a.JPG"]
    assert "height" not in records[0]
    sizes = [(r["height"], r["width"]) for r in records]
    assert sizes == [(10, 20), (1, 1), (30, 20)]  # a broken file counts as square
    assert pickle.loads(pickle.dumps(records[0]))["width"] == 20
    with pytest.raises(KeyError):
        records[0]["annotations"]


def test_size_follows_the_exif_orientation(tmp_path):
    image = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image_size(str(tmp_path / "turned.jpg")) == (20, 10)
    assert Record(file_name=str(tmp_path / "turned.jpg"))["height"] == 20


def test_voc_is_loaded(tmp_path, caplog):
    items = {"a": [("b c", 1, 2, 60, 40), ("a", 5, 5, 5, 9)], "b": [("a", 3, 3, 4, 4)], "c": []}
    with caplog.at_level(logging.WARNING):
        records = load_labeled(make_cfg(write_voc(tmp_path, items)))
    assert [r["image_id"] for r in records] == [1, 2]
    assert (records[0]["height"], records[0]["width"]) == (40, 60)  # not the tags' 9 x 9
    (found,) = records[0]["annotations"]
    assert found["bbox"] == [0, 1, 60, 40] and found["bbox_mode"] == BoxMode.XYXY_ABS
    assert found["category_id"] == 1
    assert MetadataCatalog.get("t_train").thing_classes == ["a", "b c"]
    assert "train.txt: skipped 1 unusable boxes (1 no area): a.xml object 2" in caplog.text


def test_voc_classes_can_be_given_in_order(tmp_path):
    declaration = write_voc(tmp_path, {"a": [("x", 1, 1, 9, 9), ("y", 1, 1, 9, 9)]})
    cfg = make_cfg({**declaration, "CLASSES": ["y", "x"]})
    assert [a["category_id"] for a in load_labeled(cfg)[0]["annotations"]] == [1, 0]
    message = error_of(load_labeled, make_cfg({**declaration, "CLASSES": ["y", "z"]}))
    assert "a.xml" in message and "'x'" in message and "CLASSES" in message


def test_voc_errors(tmp_path):
    declaration = write_voc(tmp_path, {"a": [("x", 1, 1, 9, 9)]})
    message = error_of(load_labeled, make_cfg({**declaration, "SPLIT": "nope"}, classes=1))
    assert "nope.txt does not exist" in message and "train" in message
    xml = tmp_path / "Annotations" / "a.xml"
    content = xml.read_text()
    xml.write_text(content[:50])
    message = error_of(load_labeled, make_cfg({**declaration, "CLASSES": ["x"]}, classes=1))
    assert "a.xml is not valid XML" in message
    xml.write_text(content)
    (tmp_path / "JPEGImages" / "a.png").unlink()
    assert "does not exist" in error_of(load_labeled, make_cfg(declaration, classes=1))


@pytest.mark.skipif(not BCCD.exists(), reason="the blood-cell photographs are not here")
def test_real_voc_dataset(caplog):
    cfg = make_cfg({"FORMAT": "voc", "ROOT": str(BCCD), "SPLIT": "trainval"}, classes=3)
    with caplog.at_level(logging.WARNING):
        records = load_labeled(cfg)
    assert MetadataCatalog.get("t_train").thing_classes == ["Platelets", "RBC", "WBC"]
    assert len(records) == 292
    assert "skipped 2 unusable boxes (2 no area)" in caplog.text


def test_number_of_classes_is_checked(tmp_path):
    declaration = write_coco(tmp_path)
    message = error_of(load_labeled, make_cfg(declaration, classes=80))
    assert "MODEL.ROI_HEADS.NUM_CLASSES is 80" in message and message.endswith("set it to 2.")
    cfg = make_cfg(declaration)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert "MODEL.RETINANET.NUM_CLASSES is 80" in error_of(load_labeled, cfg)


def test_differing_classes_are_named(tmp_path):
    other = write_coco(
        tmp_path / "val", categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}]
    )
    cfg = make_cfg(write_coco(tmp_path), t_val=other)
    cfg.DATASETS.VAL = ("t_val",)
    message = error_of(load_labeled, cfg)
    assert "only in t_train: dog; only in t_val: cow" in message and "val/train.json" in message
    swapped = write_coco(
        tmp_path / "s", categories=[{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    )
    cfg = make_cfg(write_coco(tmp_path), t_swapped=swapped)
    cfg.DATASETS.TEST = ("t_swapped",)
    assert "the same names in another order" in error_of(load_labeled, cfg)


def test_gaps_in_category_ids_do_not_matter(tmp_path):
    dense = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    other = write_coco(tmp_path / "v", annotations=[], categories=dense)
    cfg = make_cfg(write_coco(tmp_path), t_dense=other)
    cfg.DATASETS.VAL = ("t_dense",)
    assert check_classes(cfg) == ["cat", "dog"]
    assert len(load_labeled(cfg)) == 2


def test_file_errors(tmp_path):
    good = write_coco(tmp_path)
    path = Path(good["ANNOTATIONS"])
    content = json.loads(path.read_text())

    def message(change=None, text=None, declaration=good):
        changed = {**content, **(change or {})}
        path.write_text(json.dumps(changed) if text is None else text)
        return error_of(load_labeled, make_cfg(declaration))

    assert "nope.json does not exist" in message(
        declaration={**good, "ANNOTATIONS": str(tmp_path / "nope.json")}
    )
    assert "is not valid JSON" in message(text=json.dumps(content)[:80])
    assert 'has no list "annotations"' in message({"annotations": None})
    assert "lists no images" in message({"images": []})
    assert "has no usable box" in message({"annotations": []})
    assert "annotation 5 has category_id 4" in message(
        {"annotations": [annotation(5, 10, 4, [1, 1, 2, 2])]}
    )
    assert "two categories with the name 'cat'" in message(
        {"categories": [*CATEGORIES, {"id": 9, "name": "cat"}]}
    )
    assert "two images with the id 10" in message(
        {"images": content["images"] + content["images"][:1]}
    )
    first, box = content["images"][0], annotation(5, 10, 3, [1, 1, 2, 2])
    assert "'x' in its list \"images\"" in message({"images": ["x"]})
    assert 'in its list "annotations"' in message({"annotations": [3]})
    assert "write numbers" in message({"images": [{**first, "height": "128"}]})
    assert 'without "id" or "file_name"' in message({"images": [{**first, "file_name": 3}]})
    assert "numbers and with texts as id" in message(
        {"categories": [*CATEGORIES, {"id": "9", "name": "owl"}]}
    )
    assert "has no usable box" in message({"annotations": [{**box, "bbox": 7}]})
    assert "is a folder" in error_of(
        check_split_hashes, make_cfg({**good, "ANNOTATIONS": str(tmp_path)})
    )
    assert "IMAGES folder" in message(declaration={**good, "IMAGES": str(tmp_path / "elsewhere")})
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").mkdir()
    assert "0.png, listed in" in message()


def test_declaration_errors(tmp_path):
    good = write_coco(tmp_path)
    cases = [
        ({**good, "ANOTATIONS": "x"}, "did you mean 'ANNOTATIONS'?"),
        ({**good, "FORMAT": "cocoo"}, "FORMAT is 'cocoo': did you mean 'coco'?"),
        ({"IMAGES": "x"}, "has no FORMAT"),
        ({"FORMAT": "voc", "SPLIT": "y"}, "needs ROOT"),
        ({"FORMAT": "voc", "ROOT": "x", "SPLIT": "y", "CLASSES": ["a", "a"]}, "different names"),
    ]
    for declaration, expected in cases:
        assert expected in error_of(register_datasets, make_cfg(declaration))
    cfg = make_cfg(good)
    cfg.SSOD.DATASETS.t_train = "a/folder"
    assert "must be a mapping" in error_of(register_datasets, cfg)
    cfg = make_cfg(good)
    cfg.DATASETS.TRAIN = ("t_trian",)
    assert "DATASETS.TRAIN names 't_trian'" in error_of(load_labeled, cfg)
    assert "did you mean 't_train'?" in error_of(load_labeled, cfg)
    cfg = make_cfg(coco_2017_train=good)
    assert "choose another" in error_of(register_datasets, cfg)
    folder = {"FORMAT": "folder", "IMAGES": str(tmp_path / "images")}
    assert "DATASETS.UNLABELED only" in error_of(load_labeled, make_cfg(folder))
    assert "DATASETS.TRAIN is empty" in error_of(load_labeled, make_cfg())
    (tmp_path / "empty").mkdir()
    cfg = make_cfg(unlabeled={"FORMAT": "folder", "IMAGES": str(tmp_path / "empty")})
    assert "holds no image files" in error_of(load_unlabeled, cfg)
    cfg = make_cfg(good)
    cfg.SSOD.METHODS = ("ScoreThreshold",)
    assert "DATASETS.UNLABELED is empty" in error_of(load_unlabeled, cfg)


def test_missing_builtin_files_are_named(tmp_path, monkeypatch):
    cfg = make_cfg()
    cfg.DATASETS.UNLABELED = ("voc_2007_train",)
    monkeypatch.chdir(tmp_path)
    message = error_of(load_unlabeled, cfg)
    assert "voc_2007_train" in message and "DETECTRON2_DATASETS" in message


def test_changed_declaration_replaces_the_former(tmp_path):
    first, second = write_coco(tmp_path / "a"), write_coco(tmp_path / "b", images=2)
    for declaration in (first, first, second):
        cfg = make_cfg(declaration)
        register_datasets(cfg)
        assert MetadataCatalog.get("t_train").json_file == declaration["ANNOTATIONS"]
    assert len(DatasetCatalog.get("t_train")) == 2


def test_datasets_root_follows_detectron2(tmp_path, monkeypatch):
    save_image(tmp_path / "mine" / "a.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = make_cfg(unlabeled={"FORMAT": "folder", "IMAGES": "datasets/mine"})
    assert load_unlabeled(cfg)[0]["file_name"] == str(tmp_path / "mine" / "a.png")
