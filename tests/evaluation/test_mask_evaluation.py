"""AP of masks beside that of boxes: hand-made scenes, both libraries, groups, files and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from ssod.data.masks import as_json, encode_mask
from ssod.data.readings import register_datasets
from ssod.evaluation import build_evaluator
from ssod.evaluation import coco as coco_module
from ssod.plotting.run_data import metrics_by_name
from ssod.sweep.records import read_run
from tiny import tiny_cfg

SIDE = 40


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


# An object whose box is 20 x 20 and whose mask is the left half of it.
LEFT = square(10, 10, 20) & (np.arange(SIDE) < 20)
RIGHT = square(10, 10, 20) & ~LEFT
BOX = [10.0, 10, 30, 30]


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    """A test set of two images, each with LEFT; of the second image the class is "b"."""
    images, annotations = [], []
    for number in (1, 2):
        images.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
        row = {"id": number, "image_id": number, "category_id": number, "bbox": [10, 10, 20, 20]}
        mask: Any = as_json(encode_mask(LEFT))
        if number == 2:
            mask = [[10, 10, 20, 10, 20, 30, 10, 30]]
        annotations.append({**row, "segmentation": mask, "area": 200, "iscrowd": 0})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    for image in images:
        import cv2

        cv2.imwrite(str(tmp_path / str(image["file_name"])), np.zeros((SIDE, SIDE, 3), np.uint8))
    value = tiny_cfg()
    value.MODEL.MASK_ON = True
    truth = str(tmp_path / "truth.json")
    value.SSOD.DATASETS["masked"] = {
        "FORMAT": "coco", "ANNOTATIONS": truth, "IMAGES": str(tmp_path), "GROUPS": truth
    }  # fmt: skip
    register_datasets(value)
    return value


def results(cfg: Any, output: Path, masks: List[np.ndarray], name: str = "masked") -> Any:
    """Results for one detection with the true box in each image, with these masks."""
    evaluator: Any = build_evaluator(cfg, name, str(output))
    evaluator.reset()
    for image, mask in enumerate(masks):
        found = Instances((SIDE, SIDE), pred_boxes=Boxes(torch.tensor([BOX])))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([image])
        found.pred_masks = torch.from_numpy(mask[None])
        evaluator.process([{"image_id": image + 1}], [{"instances": found}])
    return evaluator.evaluate()


@pytest.mark.parametrize("faster", [True, False])
def test_masks_are_judged_by_their_pixels(
    cfg: Any, tmp_path: Path, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not faster:
        monkeypatch.setattr(coco_module.importlib.util, "find_spec", lambda name: None)
    found = results(cfg, tmp_path / "out", [LEFT, RIGHT])
    assert found["bbox"]["AP"] == pytest.approx(100.0)
    assert found["segm"]["AP"] == pytest.approx(50.0)
    assert found["segm"]["AP-a"] == pytest.approx(100.0) and found["segm"]["AP-b"] == 0.0
    assert found["segm"]["APr"] == pytest.approx(50.0)  # the groups' metrics, too
    # 150 of 200 pixels: IoU 0.75 is above six of the ten thresholds.
    part = LEFT & (np.arange(SIDE)[:, None] < 25)
    found = results(cfg, tmp_path / "out", [part, part])
    assert found["segm"]["AP"] == pytest.approx(60.0)
    assert found["segm"]["AP75"] == pytest.approx(100.0)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert isinstance(written[0]["segmentation"]["counts"], str) and written[0]["bbox"]


def test_a_mask_is_as_large_as_its_pixels(cfg: Any, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    content = json.loads(truth.read_text())
    for annotation in content["annotations"]:
        annotation["area"] = 2000.0  # medium
    truth.write_text(json.dumps(content))
    register_datasets(cfg)
    found = results(cfg, tmp_path / "out", [LEFT, LEFT])
    # Found objects match whatever their own size is.
    assert found["segm"]["APm"] == pytest.approx(100.0) and np.isnan(found["segm"]["APs"])


def test_nothing_found_gives_zero_and_boxes_alone_give_no_mask_ap(cfg: Any, tmp_path: Path) -> None:
    evaluator: Any = build_evaluator(cfg, "masked", str(tmp_path / "out"))
    evaluator.reset()
    found = Instances((SIDE, SIDE), pred_boxes=Boxes(torch.tensor([BOX])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    evaluator.process([{"image_id": 1}], [{"instances": found[found.scores > 1]}])
    nothing = evaluator.evaluate()
    assert nothing["bbox"]["AP"] == nothing["segm"]["AP"] == 0.0
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert sorted(evaluator.evaluate()) == ["bbox"]


def test_lvis_evaluates_masks_too(cfg: Any, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    content: Dict[str, Any] = json.loads((tmp_path / "truth.json").read_text())
    for image in content["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in content["categories"]:
        category["frequency"] = "f"
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    cfg.SSOD.DATASETS["lvis_masked"] = {
        "FORMAT": "lvis", "ANNOTATIONS": str(tmp_path / "lvis.json"), "IMAGES": str(tmp_path)
    }  # fmt: skip
    register_datasets(cfg)
    MetadataCatalog.get("lvis_masked")
    found = results(cfg, tmp_path / "out", [LEFT, RIGHT], "lvis_masked")
    assert found["bbox"]["AP"] == pytest.approx(100.0)
    assert found["segm"]["AP"] == pytest.approx(50.0)


def test_tables_name_the_metrics_of_masks(tmp_path: Path) -> None:
    tasks = {"bbox": {"AP": 40.0}, "segm": {"AP": 30.0, "AP-a": 20.0}}
    assert metrics_by_name(tasks) == {"AP": 40.0, "segm/AP": 30.0, "segm/AP-a": 20.0}
    record = {"teacher_best": {"test": {"masked": tasks}}, "steps": 5}
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert read_run(str(tmp_path), 1).metrics["masked"]["segm/AP"] == 30.0
