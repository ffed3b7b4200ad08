"""A run whose labelled, unlabelled, validation and test sets each come from another tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image

from layouts import (
    Writer,
    cvat,
    label_studio,
    labelimg_voc,
    labelimg_yolo,
    labelme,
    table,
    ultralytics,
)
from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.classes import check_classes
from ssod.data.declarations import parse_declaration
from ssod.data.splits import check_split_hashes, dataset_hash
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from tiny import tiny_cfg

CLASSES = ("red", "green", "blue")


def write_squares(folder: Path, count: int, seed: int) -> Dict[str, Any]:
    """Images of 64 pixels with a square of one of three colours each, and their truth."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    truth = {}
    for index in range(count):
        label, size = index % 3, int(rng.integers(16, 28))
        x, y = (int(v) for v in rng.integers(0, 64 - size, 2))
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        pixels[y : y + size, x : x + size] = np.eye(3)[label] * 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        truth[f"{index}.png"] = [(CLASSES[label], x, y, x + size, y + size)]
    return truth


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    truth = write_squares(tmp_path / "source", 6, seed=1)
    source = tmp_path / "source"
    sets = {
        "yolo": ultralytics(tmp_path / "yolo", truth, source, CLASSES),
        "voc": labelimg_voc(tmp_path / "voc", truth, source),
        "labelme": labelme(tmp_path / "labelme", truth, source),
        "cvat": cvat(tmp_path / "cvat", truth, source, CLASSES),
        "studio": label_studio(tmp_path / "studio", truth, source),
        "csv": table(tmp_path / "csv", truth, source),
    }
    cfg = tiny_cfg()
    for name, node in sets.items():
        # Those without a list of their own sort the classes.
        more = {} if name in ("yolo", "cvat") else {"CLASSES": list(CLASSES)}
        cfg.SSOD.DATASETS[f"formats_{name}"] = CfgNode({**node, **more})
    cfg.DATASETS.TRAIN = ("formats_yolo", "formats_voc")
    cfg.DATASETS.UNLABELED = ("formats_labelme", "formats_cvat")
    cfg.DATASETS.VAL = ("formats_studio",)
    cfg.DATASETS.TEST = ("formats_csv", "formats_cvat")
    cfg.SSOD.METHODS = ("ScoreThreshold",)
    cfg.TEST.EVAL_PERIOD = 3
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    Path(cfg.OUTPUT_DIR).mkdir()
    return cfg


@pytest.mark.trains
def test_run(cfg: CfgNode) -> None:
    trainer = SSODTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text())
    assert set(results["teacher_best"]["test"]) == {"formats_csv", "formats_cvat"}
    for tasks in results["teacher_best"]["test"].values():
        assert {"AP", "AP-red", "AP-green", "AP-blue"} <= set(tasks["bbox"])


def test_labels_are_read_for_labelled_sets_alone(cfg: CfgNode) -> None:
    assert len(load_labeled(cfg)) == 12
    unlabelled = load_unlabeled(cfg)
    assert len(unlabelled) == 12 and not any("annotations" in record for record in unlabelled)
    assert check_classes(cfg) == list(CLASSES)
    check_split_hashes(cfg)


def test_classes_in_another_order_are_refused(cfg: CfgNode) -> None:
    del cfg.SSOD.DATASETS.formats_voc["CLASSES"]
    with pytest.raises(UserError, match="the same names in another order"):
        check_classes(cfg)


@pytest.mark.parametrize("name", ["yolo", "voc", "labelme", "cvat", "studio", "csv"])
def test_hash_follows_the_labels(name: str, cfg: CfgNode) -> None:
    node = cfg.SSOD.DATASETS[f"formats_{name}"]
    before = dataset_hash(parse_declaration("mine", node))
    assert dataset_hash(parse_declaration("mine", node)) == before
    dataset = parse_declaration("mine", node)
    files: List[str] = dataset.files_to_hash()
    with open(files[-1], "a") as file:
        file.write("\n")
    assert dataset_hash(parse_declaration("mine", node)) != before


@pytest.mark.parametrize("writer", [ultralytics, labelimg_voc, labelme, labelimg_yolo, cvat])
def test_unlabelled_sets_need_no_labels(writer: Writer, tmp_path: Path) -> None:
    """Not even readable ones: training on unlabelled images never opens a label."""
    truth = write_squares(tmp_path / "source", 3, seed=1)
    node = writer(tmp_path / "set", dict.fromkeys(truth), tmp_path / "source", CLASSES)
    (tmp_path / "set" / "classes.txt").unlink(missing_ok=True)
    if writer is not cvat:
        for suffix in ("txt", "xml", "json"):
            label = next((tmp_path / "set").rglob("0.png")).with_suffix(f".{suffix}")
            label.write_text("<{")
    dataset = parse_declaration("mine", node)
    assert [record["image_id"] for record in dataset.unlabeled_records()] == [1, 2, 3]
    assert dataset.names_to_hash()
