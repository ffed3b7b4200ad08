"""No metric depends on ids, on the order, on boxes that cannot be used, or on images without
boxes.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import Boxes, Instances

from ssod.config import add_ssod_config
from ssod.data.readings import register_datasets
from ssod.evaluation import FastCOCOEvaluator
from ssod.evaluation import coco as coco_module

Content = Dict[str, Any]
NUMBERS = itertools.count()
IMAGES = 10


def truth() -> Content:
    """Random boxes of three classes; the third class is only in every other image."""
    rng = np.random.default_rng(3)
    images = [{"id": i + 1, "file_name": f"{i}.png"} for i in range(IMAGES)]
    annotations: List[Dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(2, 5)):
            x, y, w, h = (float(v) for v in rng.uniform([0, 0, 8, 8], [150, 150, 140, 140]))
            label = int(rng.integers(1, 4 if image["id"] % 2 else 3))
            box = {"image_id": image["id"], "category_id": label, "bbox": [x, y, w, h]}
            crowd = int(len(annotations) % 7 == 6)
            annotations.append({"id": len(annotations) + 1, **box, "area": w * h, "iscrowd": crowd})
    for image in images:
        image.update(height=300, width=300)
    names = [{"id": k + 1, "name": name} for k, name in enumerate("abc")]
    return {"images": images, "annotations": annotations, "categories": names}


def detections(content: Content) -> Dict[str, Instances]:
    """Jittered boxes with equal scores among them, and false alarms, by file name."""
    rng = np.random.default_rng(4)
    found = {}
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = [np.array(a["bbox"]) + rng.normal(0, 5, 4) for a in rows]
        labels = [a["category_id"] - 1 for a in rows]
        boxes += [rng.uniform([0, 0, 8, 8], [150, 150, 140, 140]) for _ in range(3)]
        labels += [int(k) for k in rng.integers(0, 3, 3)]
        tensor = torch.tensor(np.stack(boxes), dtype=torch.float32)
        tensor[:, 2:] += tensor[:, :2]
        scores = torch.from_numpy(rng.integers(1, 6, len(boxes)) / 10).float()
        row = Instances((300, 300), pred_boxes=Boxes(tensor), scores=scores)
        row.pred_classes = torch.tensor(labels)
        found[image["file_name"]] = row
    return found


def measure(content: Content, folder: Path) -> Dict[str, float]:
    """All metrics of the detections of the unchanged truth on a changed one."""
    name = f"invariance_{folder.name}_{next(NUMBERS)}"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    for image in content["images"]:
        (folder / image["file_name"]).touch()
    cfg = get_cfg()
    add_ssod_config(cfg)
    declaration = {"FORMAT": "coco", "ANNOTATIONS": str(path), "IMAGES": str(folder)}
    cfg.SSOD.DATASETS[name] = CfgNode(declaration)
    register_datasets(cfg)
    evaluator = FastCOCOEvaluator(name, str(folder))
    evaluator.reset()
    found = detections(truth())
    for image in content["images"]:
        if image["file_name"] in found:
            instances = found[image["file_name"]]
            evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def ids(new: Callable[[int], Any]) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = new(number)

    return change


def renamed(key: str, refer: str, new: Callable[[int], Any]) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for entry in content[key]:
            entry["id"] = new(entry["id"])
        for annotation in content["annotations"]:
            annotation[refer] = new(annotation[refer])

    return change


def permuted(seed: int) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for key in content:
            np.random.default_rng(seed).shuffle(content[key])

    return change


def unusable(content: Content) -> None:
    boxes = [[1, 1, 0, 5], [1, 1, 5, -1], [400, 1, 5, 5], [math.nan, 1, 5, 5], [1, 2, 3], None]
    for number, box in enumerate(boxes):
        image, label = number % IMAGES + 1, number % 3 + 1
        content["annotations"].insert(
            number, {"id": 1, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
        )
    lost = {"id": 2, "image_id": 999, "category_id": 1, "bbox": [1, 1, 50, 50]}
    content["annotations"].append(lost)


def more_images(content: Content) -> None:
    for number in range(5):
        image = {"id": 50 + number, "file_name": f"a{number}.png", "height": 300, "width": 300}
        content["images"].insert(0, image)


CHANGES = {
    "ids from 0": ids(lambda n: n),
    "ids negative": ids(lambda n: -n),
    "ids equal": ids(lambda n: 1),
    "ids in pairs": ids(lambda n: n // 2),
    "ids of texts": ids(str),
    "ids null": ids(lambda n: None),
    "images from 0": renamed("images", "image_id", lambda n: n - 1),
    "images reversed": renamed("images", "image_id", lambda n: 100 - n),
    "images as texts": renamed("images", "image_id", lambda n: f"{n:06d}"),
    "images huge": renamed("images", "image_id", lambda n: n + 2**70),
    "classes from 0": renamed("categories", "category_id", lambda n: n - 1),
    "classes as texts": renamed("categories", "category_id", lambda n: "xyz"[n - 1]),
    **{f"permuted {seed}": permuted(seed) for seed in range(3)},
    "unusable boxes": unusable,
    "images without boxes": more_images,
}


@pytest.mark.parametrize("fast", [True, False], ids=["faster-coco-eval", "pycocotools"])
def test_metrics_do_not_change(fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fast:
        pytest.importorskip("faster_coco_eval")
    else:
        monkeypatch.setattr(coco_module.importlib.util, "find_spec", lambda name: None)
    expected = measure(truth(), tmp_path)
    assert 5 < expected["AP"] < 95 and 5 < expected["AP-c"] < 95
    for name, change in CHANGES.items():
        content = copy.deepcopy(truth())
        change(content)
        assert measure(content, tmp_path) == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_a_box_that_is_taken_away_does_change_them(tmp_path: Path) -> None:
    content = truth()
    del content["annotations"][0]
    assert measure(content, tmp_path)["AP"] != measure(truth(), tmp_path)["AP"]
