"""Box metrics: both libraries agree, and empty cases give numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO

from ssod.errors import UserError
from ssod.evaluation import FastCOCOEvaluator, build_evaluator
from ssod.evaluation import coco as coco_module
from ssod.evaluation import evaluate
from tiny import tiny_cfg

IMAGES, CLASSES = 12, ("a", "b", "c", "none")


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[str]:
    """Random boxes of three sizes and of three classes; the fourth has none.

    Category ids are 10, 20, ...
    """
    rng = np.random.default_rng(0)
    images = [
        {"id": i + 1, "file_name": f"{i}.png", "height": 300, "width": 300} for i in range(IMAGES)
    ]
    annotations: List[Dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(1, 6)):
            x, y, w, h = (float(v) for v in rng.uniform([0, 0, 8, 8], [150, 150, 140, 140]))
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": image["id"], "bbox": [x, y, w, h]},
                    **{"area": w * h, "category_id": int(rng.integers(1, 4)) * 10},
                    "iscrowd": int(len(annotations) % 9 == 8),
                }
            )
    categories = [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(CLASSES)]
    path = tmp_path / "truth.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    name = f"eval_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: images)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        evaluator_type="coco",
        thing_classes=list(CLASSES),
        thing_dataset_id_to_contiguous_id={10 * (k + 1): k for k in range(len(CLASSES))},
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def predictions(name: str) -> List[Dict[str, Any]]:
    """Jittered truth and false alarms."""
    rng = np.random.default_rng(1)
    truth = COCO(MetadataCatalog.get(name).json_file)
    outputs = []
    for image_id in sorted(truth.imgs):
        rows = truth.imgToAnns[image_id]
        boxes = [np.array(r["bbox"]) + rng.normal(0, 4, 4) for r in rows for _ in range(2)]
        classes = [r["category_id"] // 10 - 1 for r in rows for _ in range(2)]
        boxes += [rng.uniform([0, 0, 8, 8], [150, 150, 140, 140]) for _ in range(4)]
        classes += [int(k) for k in rng.integers(0, 4, 4)]
        tensor = torch.tensor(np.stack(boxes), dtype=torch.float32)
        tensor[:, 2:] += tensor[:, :2]
        found = Instances((300, 300), pred_boxes=Boxes(tensor), pred_classes=torch.tensor(classes))
        found.scores = torch.from_numpy(rng.uniform(size=len(boxes))).float()
        outputs.append({"input": {"image_id": image_id}, "output": {"instances": found}})
    return outputs


def run(evaluator: Any, outputs: List[Dict[str, Any]]) -> Dict[str, float]:
    evaluator.reset()
    evaluator.process([o["input"] for o in outputs], [o["output"] for o in outputs])
    return evaluator.evaluate()["bbox"]


def test_equals_pycocotools(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval")
    outputs = predictions(dataset)
    used = []
    monkeypatch.setattr(coco_module, "_official", lambda *a: used.append(a))
    fast = run(build_evaluator(tiny_cfg(), dataset, str(tmp_path)), outputs)
    monkeypatch.undo()
    assert not used
    official = run(COCOEvaluator(dataset, output_dir=str(tmp_path), use_fast_impl=False), outputs)
    monkeypatch.setattr(coco_module.importlib.util, "find_spec", lambda name: None)
    slow = run(FastCOCOEvaluator(dataset, str(tmp_path)), outputs)
    assert set(fast) == set(slow) == set(official) | {"AR"}
    assert 5 < fast["AP"] < 95 and fast["APs"] != fast["APl"] and math.isnan(fast["AP-none"])
    for name, value in slow.items():
        assert fast[name] == pytest.approx(value, abs=1e-6, nan_ok=True)
        assert name == "AR" or official[name] == pytest.approx(value, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("fast", [True, False])
def test_no_detections(
    dataset: str,
    tmp_path: Path,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not fast:
        monkeypatch.setattr(coco_module.importlib.util, "find_spec", lambda name: None)
    outputs = [
        {
            "input": {"image_id": i + 1},
            "output": {
                "instances": Instances(
                    (300, 300),
                    pred_boxes=Boxes(torch.zeros(0, 4)),
                    scores=torch.zeros(0),
                    pred_classes=torch.zeros(0, dtype=torch.long),
                )
            },
        }
        for i in range(IMAGES)
    ]
    results = run(FastCOCOEvaluator(dataset, str(tmp_path)), outputs)
    assert results.pop("AP-none") != results["AP"]  # NaN
    assert set(results.values()) == {0.0} and {"AP", "AP50", "AR", "APs", "AP-a"} <= set(results)
    assert "detects nothing" in caplog.text


def perfect(image_id: Any) -> Dict[str, Any]:
    found = Instances((20, 20), pred_boxes=Boxes(torch.tensor([[2.0, 2.0, 12.0, 12.0]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([1])
    return {"input": {"image_id": image_id}, "output": {"instances": found}}


@pytest.mark.parametrize("image_id", [3, "000003"])
def test_dataset_without_json(tmp_path: Path, image_id: Any) -> None:
    name = f"plain_{image_id}_{tmp_path.name}"
    box = {"bbox": [2, 2, 12, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    row = {
        "file_name": "x.png",
        "image_id": image_id,
        "height": 20,
        "width": 20,
        "annotations": [box],
    }
    DatasetCatalog.register(name, lambda: [row])
    MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    # Files of an earlier run with other annotations must not count.
    (tmp_path / f"{name}_coco_format.json").write_text("{}")
    results = run(build_evaluator(tiny_cfg(), name, str(tmp_path)), [perfect(image_id)])
    assert results["AP"] == pytest.approx(100) and math.isnan(results["AP-a"])
    DatasetCatalog.remove(name)


def test_other_types(tmp_path: Path) -> None:
    for kind in ("pascal_voc", "cityscapes"):
        name = f"{kind}_{tmp_path.name}"
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            evaluator_type=kind, dirname=str(tmp_path), split="test", year=2007, thing_classes=["a"]
        )
    built = build_evaluator(tiny_cfg(), f"pascal_voc_{tmp_path.name}", str(tmp_path))
    assert isinstance(built, PascalVOCDetectionEvaluator)
    with pytest.raises(UserError, match="evaluator_type 'cityscapes'"):
        build_evaluator(tiny_cfg(), name, str(tmp_path))
    with pytest.raises(UserError, match=f"did you mean '{name}'"):
        build_evaluator(tiny_cfg(), name + "s", str(tmp_path))


class Oracle(torch.nn.Module):
    """Finds the square by its colour; a stand-in for a detector."""

    def forward(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        assert not self.training
        return [perfect(row["image_id"])["output"] for row in inputs]


def test_evaluate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((20, 20, 3), dtype=np.uint8))
    names = []
    for image_id in (1, 2):
        names.append(f"whole_{image_id}_{tmp_path.name}")
        boxes = [[2, 2, 12, 12], [14, 14, 19, 19]][:image_id]
        row = {
            "file_name": str(tmp_path / "x.png"),
            "image_id": image_id,
            "height": 20,
            "width": 20,
        }
        row["annotations"] = [
            {"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1} for b in boxes
        ]
        DatasetCatalog.register(names[-1], lambda row=row: [row])
        MetadataCatalog.get(names[-1]).set(thing_classes=["a", "b"])
    model = Oracle().train()
    results = evaluate(tiny_cfg(), model, names, str(tmp_path / "out"))
    assert list(results) == names and model.training
    assert results[names[0]]["bbox"]["AP50"] == pytest.approx(100)
    # One of two boxes, at precision 1: recall points 0 to 0.5 of 101.
    assert results[names[1]]["bbox"]["AP50"] == pytest.approx(100 * 51 / 101)
    assert not [r for r in caplog.records if r.levelname == "INFO"]
    with pytest.raises(UserError, match="is not registered"):
        evaluate(tiny_cfg(), model, ["nothing_like_it"], str(tmp_path))
