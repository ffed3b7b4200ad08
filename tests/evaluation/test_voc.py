"""VOC's metric beside COCO's, on tags that Detectron2's own evaluator does not read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from ssod.config import add_ssod_config
from ssod.data.readings import register_datasets
from ssod.errors import UserError
from ssod.evaluation import build_evaluator

# stem -> (class, XYXY of VOC, counted from 1, difficult)
TRUTH = {
    "a": [("cat", (11, 11, 30, 30), 0), ("a/b", (31, 31, 39, 39), 1)],
    "b": [("cat", (1, 1, 20, 20), 0)],
    "c": [("a/b", (5, 5, 24, 24), 0)],
}
DETECTOR2_TAGS = "<pose>Left</pose><truncated>0</truncated>"


def write(root: Path, tags: str = "", difficult: bool = True) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(TRUTH))
    for stem, objects in TRUTH.items():
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "JPEGImages" / f"{stem}.png")
        rows = ""
        for name, (x0, y0, x1, y1), hard in objects:
            mark = f"<difficult>{hard}</difficult>" if difficult else ""
            box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            rows += f"<object><name>{name}</name>{tags}{mark}<bndbox>{box}</bndbox></object>"
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{rows}</annotation>")


@pytest.fixture
def names() -> Iterator[List[str]]:
    used: List[str] = []
    yield used
    for name in used:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def declare(names: List[str], root: Path, name: str = "voc_test_set", **keys: Any) -> Any:
    cfg = get_cfg()
    add_ssod_config(cfg)
    node = {"FORMAT": "voc", "ROOT": str(root), "SPLIT": "test", **keys}
    cfg.SSOD.DATASETS[name] = type(cfg)({k: v for k, v in node.items() if v is not None})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    register_datasets(cfg)
    names.append(name)
    return cfg


def found(boxes: List[List[float]], classes: List[int], scores: List[float]) -> Dict[str, Any]:
    instances = Instances((40, 40))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.tensor(scores)
    return {"instances": instances}


# Detections in images a, b, c. Class 0 is "a/b". Boxes count from 0.
OUTPUTS = [
    found([[10, 10, 30, 30], [30, 30, 39, 39], [0, 0, 8, 8]], [1, 0, 1], [0.9, 0.95, 0.8]),
    found([[0, 0, 20, 15]], [1], [0.7]),
    found([[4, 4, 24, 24]], [0], [0.6]),
]


def metrics(cfg: Any, name: str, outputs: List[Dict[str, Any]], folder: Path) -> Dict[str, float]:
    evaluator = build_evaluator(cfg, name, str(folder))
    evaluator.reset()
    records = DatasetCatalog.get(name)
    for record, output in zip(records, outputs):
        evaluator.process([{"image_id": record["image_id"]}], [output])
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize("year", [2007, 2012])
def test_equals_detectron2s_evaluator(tmp_path: Path, names: List[str], year: int) -> None:
    write(tmp_path, DETECTOR2_TAGS)
    # A class name with a slash is no file name, so Detectron2's gets another one.
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace("a/b", "ab"))
    cfg = declare(names, tmp_path, EVALUATOR=f"voc{year}", CLASSES=["ab", "cat"])
    own = metrics(cfg, names[0], OUTPUTS, tmp_path)
    metadata = SimpleNamespace(
        dirname=str(tmp_path), split="test", year=year, thing_classes=["ab", "cat"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetadataCatalog, "get", lambda name: metadata)
        theirs = PascalVOCDetectionEvaluator("x")
    theirs.reset()
    for stem, output in zip(TRUTH, OUTPUTS):
        theirs.process([{"image_id": stem}], [output])
    wanted = theirs.evaluate()["bbox"]
    assert {f"VOC-{key}": float(v) for key, v in wanted.items()} == pytest.approx(
        {key: value for key, value in own.items() if key.startswith("VOC-")}
    )
    assert own["VOC-AP50"] != own["AP50"] and "AP-cat" in own


def test_by_hand(tmp_path: Path, names: List[str]) -> None:
    """cat: hit, miss, hit in order of score, of two; a/b: the difficult one counts as nothing, then
    a hit.
    """
    write(tmp_path)
    cfg = declare(names, tmp_path, EVALUATOR="voc2007")
    own = metrics(cfg, names[0], OUTPUTS, tmp_path)
    # Precision at recalls 0 to 0.5 is 1 (six points), at 0.6 to 1.0 two thirds (five points).
    cat = (6 * 1 + 5 * 2 / 3) / 11
    assert own["VOC-AP50"] == pytest.approx(100 * (cat + 1) / 2)


def test_difficult_boxes(tmp_path: Path, names: List[str]) -> None:
    write(tmp_path)
    cfg = declare(names, tmp_path)
    assert "VOC-AP50" not in metrics(cfg, names[0], OUTPUTS, tmp_path)
    records = DatasetCatalog.get(names[0])
    assert [len(record["annotations"]) for record in records] == [2, 1, 1]
    declare(names, tmp_path, "voc_easy_set", IGNORE_DIFFICULT=True)
    records = DatasetCatalog.get("voc_easy_set")
    assert [len(record["annotations"]) for record in records] == [1, 1, 1]


def test_no_detections_and_a_subset(tmp_path: Path, names: List[str]) -> None:
    write(tmp_path, difficult=False)  # a missing tag says that nothing is difficult
    cfg = declare(names, tmp_path, EVALUATOR="voc2012")
    nothing = [found([], [], [])] * 3
    assert metrics(cfg, names[0], nothing, tmp_path)["VOC-AP50"] == 0
    evaluator = build_evaluator(cfg, names[0], str(tmp_path))
    evaluator.reset()
    records = DatasetCatalog.get(names[0])
    for record, output in zip(records, OUTPUTS):
        evaluator.process([{"image_id": record["image_id"]}], [output])
    first = evaluator.evaluate(img_ids=[records[2]["image_id"]])["bbox"]
    assert first["VOC-AP50"] == pytest.approx(50.0)  # one class has no box there


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"EVALUATOR": "pascal"}, "EVALUATOR is 'pascal'.*use one of coco, voc2007, voc2012"),
        ({"EVALUATOR": 2007}, "EVALUATOR is 2007"),
        ({"EVALUATOR": "voc2007", "SPLIT": None}, "need SPLIT"),
        ({"IGNORE_DIFFICULT": "yes"}, "IGNORE_DIFFICULT is 'yes'"),
        ({"EVALUATOR": "voc2007", "GROUPS": "g.json"}, "GROUPS"),
        ({"EVALUATOR": "voc2007", "IGNORE_DIFFICULT": True}, "remove IGNORE_DIFFICULT"),
    ],
)
def test_wrong_keys(tmp_path: Path, names: List[str], keys: Any, message: str) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        declare(names, tmp_path, **keys)
    assert "\n" not in str(error.value)
