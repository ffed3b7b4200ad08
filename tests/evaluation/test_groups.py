"""AP of groups of classes, on COCO-style and LVIS-style data."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Boxes, Instances

from ssod.data.readings import register_datasets
from ssod.data.splits import check_split_hashes
from ssod.errors import UserError
from ssod.evaluation import build_evaluator
from ssod.evaluation.groups import frequency_groups, group_means, read_groups
from tiny import tiny_cfg

NAMES = ("cup", "dog", "fork", "owl")


def write_labeled(path: Path, images_with: Sequence[int], minority: Sequence[str] = ()) -> str:
    """A labelled set in which `images_with[k]` images show class k, each twice; category ids differ
    from the test set's.
    """
    content: Dict[str, Any] = {"images": [], "annotations": []}
    for k, number in enumerate(images_with):
        for _ in range(number):
            image = len(content["images"]) + 1
            content["images"].append({"id": image, "file_name": f"{image}.png"})
            for _ in range(2):
                box = {"id": len(content["annotations"]) + 1, "image_id": image, "iscrowd": 0}
                content["annotations"].append(
                    {**box, "category_id": 100 - k, "bbox": [1, 1, 4, 4], "area": 16}
                )
    content["categories"] = [{"id": 100 - k, "name": name} for k, name in enumerate(NAMES)]
    if minority:
        content["info"] = {"ssod_split": {"minority": list(minority)}}
    path.write_text(json.dumps(content))
    return str(path)


def test_frequencies_count_images_at_the_bounds() -> None:
    assert frequency_groups([101, 100, 11, 10, 0]) == {"APf": (0,), "APc": (1, 2), "APr": (3, 4)}
    assert frequency_groups([5]) == {"APr": (0,)}


def test_means_leave_out_classes_without_truth() -> None:
    groups = {"a": (0, 1), "b": (1, 2), "c": (1,)}
    means = group_means([10.0, math.nan, 30.0], groups)
    assert means["a"] == 10 and means["b"] == 30 and math.isnan(means["c"])


def test_groups_of_a_labelled_set(tmp_path: Path) -> None:
    path = write_labeled(tmp_path / "l.json", [101, 11, 10, 0], minority=("owl", "dog"))
    order = ("owl", "cup", "dog", "fork")  # the test set's
    assert read_groups(path, order) == {
        "AP-majority": (1, 3),
        "AP-minority": (0, 2),
        "APf": (1,),
        "APc": (2,),
        "APr": (0, 3),
    }
    assert set(read_groups(write_labeled(tmp_path / "p.json", [1, 1, 1, 1]), order)) == {"APr"}
    with pytest.raises(UserError, match="p.json, named by GROUPS, has no class cat: "):
        read_groups(str(tmp_path / "p.json"), ("cat", "dog"))
    with pytest.raises(UserError, match="none.json does not exist"):
        read_groups(str(tmp_path / "none.json"), order)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Six images with a box of each of three classes; "owl" has none.

    `fork` is not judged in the images 1 to 3.
    """
    images = [
        {
            **{"id": i + 1, "coco_url": f"http://x/val/{i}.png", "height": 60, "width": 60},
            "neg_category_ids": [8] if i == 0 else [],
            "not_exhaustive_category_ids": [4] if i == 1 else [],
        }
        for i in range(6)
    ]
    annotations = []
    for i in range(6):
        for k in range(3 if i > 2 else 2):
            box = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 2 * (k + 1)}
            annotations.append({**box, "bbox": [2 + 12 * k, 5, 10, 10], "area": 100})
    categories = [
        {"id": 2 * (k + 1), "name": name, "frequency": "frcc"[k]} for k, name in enumerate(NAMES)
    ]
    path = tmp_path / "truth.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (tmp_path / "val").mkdir()
    for i in range(6):
        (tmp_path / "val" / f"{i}.png").touch()
    return path


@pytest.fixture
def declare(truth: Path) -> Iterator[Any]:
    names: List[str] = []

    def register(**node: Any) -> CfgNode:
        cfg = tiny_cfg()
        names.append(f"groups_{truth.parent.name}_{len(names)}")
        declared = {"ANNOTATIONS": str(truth), "IMAGES": str(truth.parent), **node}
        cfg.SSOD.DATASETS = CfgNode({names[-1]: CfgNode(declared)})
        cfg.DATASETS.TEST = (names[-1],)
        register_datasets(cfg)
        return cfg

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def detections(
    finds: Sequence[Sequence[int]], false: Sequence[Sequence[int]] = ()
) -> List[Dict[str, Any]]:
    """For each image the classes found exactly, and those of false alarms, which are more
    confident.
    """
    outputs = []
    for i in range(6):
        rows = [([2.0 + 12 * k, 5.0, 12.0 + 12 * k, 15.0], k, 0.5) for k in finds[i]]
        rows += [([40.0, 40.0, 50.0, 50.0], k, 0.9) for k in (false[i] if false else ())]
        found = Instances(
            (60, 60), pred_boxes=Boxes(torch.tensor([r[0] for r in rows]).view(-1, 4))
        )
        found.pred_classes = torch.tensor([r[1] for r in rows], dtype=torch.long)
        found.scores = torch.tensor([r[2] for r in rows])
        outputs.append({"input": {"image_id": i + 1}, "output": {"instances": found}})
    return outputs


def run(
    cfg: CfgNode, outputs: List[Dict[str, Any]], folder: Path, build: Any = None
) -> Dict[str, float]:
    name = cfg.DATASETS.TEST[0]
    DatasetCatalog.get(name)
    evaluator = build(name) if build else build_evaluator(cfg, name, str(folder))
    evaluator.reset()
    evaluator.process([o["input"] for o in outputs], [o["output"] for o in outputs])
    return evaluator.evaluate()["bbox"]


ALL = [[0, 1], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
# cup is found everywhere, dog in half of the images, fork nowhere
SOME = [[0, 1], [0, 1], [0, 1], [0], [0], [0]]
DOG = 100 * 51 / 101  # recall 0.5 at precision 1: 51 of 101 recall points


def test_coco_style(declare: Any, tmp_path: Path) -> None:
    groups = write_labeled(tmp_path / "l.json", [120, 40, 11, 3], minority=("dog", "owl"))
    results = run(declare(FORMAT="coco", GROUPS=groups), detections(SOME), tmp_path)
    assert results["AP-majority"] == pytest.approx(50)  # cup 100, fork 0
    assert results["AP-minority"] == pytest.approx(DOG)  # owl has no truth
    assert results["APf"] == pytest.approx(100) and results["APc"] == pytest.approx(DOG / 2)
    assert math.isnan(results["APr"])
    names = list(results)
    assert names.index("AP") < names.index("AP-majority") < names.index("AP-cup")
    plain = run(declare(FORMAT="coco"), detections(SOME), tmp_path)
    assert plain == pytest.approx({k: results[k] for k in plain}, nan_ok=True)
    assert not {"APf", "AP-minority"} & set(plain)


def test_missing_groups_stop_the_start(declare: Any, tmp_path: Path) -> None:
    cfg = declare(FORMAT="coco", GROUPS=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="none.json does not exist"):
        check_split_hashes(cfg)


def test_files_that_do_not_fit_stop_the_start(declare: Any, truth: Path, tmp_path: Path) -> None:
    """Not the first evaluation, thousands of steps later."""
    from ssod.engine.trainer import SSODTrainer

    other = json.loads(truth.read_text())
    other["categories"][0]["name"] = "mug"
    groups = tmp_path / "other.json"
    groups.write_text(json.dumps(other))
    with pytest.raises(UserError, match="other.json, named by GROUPS, has no class cup"):
        SSODTrainer(declare(FORMAT="coco", GROUPS=str(groups)))
    pytest.importorskip("lvis")
    content = json.loads(truth.read_text())
    del content["categories"][1]["frequency"]
    truth.write_text(json.dumps(content))
    with pytest.raises(UserError, match="categories without a frequency"):
        SSODTrainer(declare(FORMAT="lvis"))


def test_lvis_style_is_detectron2s_and_federated(declare: Any, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    false = [[2, 3], [1, 2], [2], [], [], [0]]
    cfg = declare(FORMAT="lvis")
    results = run(cfg, detections(ALL, false), tmp_path)
    official = run(cfg, detections(ALL, false), tmp_path, lambda name: LVISEvaluator(name))
    assert math.isnan(results.pop("APl")) and math.isnan(results.pop("APm"))  # -100 there
    assert results == pytest.approx({name: official[name] for name in results})
    # Alarms where a class is not judged (fork in images 1 to 3) or not labelled exhaustively (dog
    # in image 2) cost nothing; that of a cup in image 6 does: precision 1/2 at first, 6/7 in the
    # end.
    assert results["APr"] == pytest.approx(100) and results["APc"] == pytest.approx(100)
    assert results["APf"] == pytest.approx(100 * 6 / 7)
    assert results["AP"] == pytest.approx((100 + 100 + 600 / 7) / 3)
    coco = run(declare(FORMAT="coco"), detections(ALL, false), tmp_path)
    assert coco["AP"] < results["AP"]  # every image is judged for every class there


def test_lvis_groups_follow_the_labelled_set(declare: Any, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    groups = write_labeled(tmp_path / "l.json", [4, 40, 120, 0], minority=("cup", "owl"))
    cfg = declare(FORMAT="lvis", GROUPS=groups)
    results = run(cfg, detections(SOME), tmp_path)
    assert results["APr"] == pytest.approx(100) and results["APc"] == pytest.approx(DOG)
    assert results["APf"] == 0 and results["AP-minority"] == pytest.approx(100)
    assert results["AP-majority"] == pytest.approx(DOG / 2)
    nothing = run(cfg, detections([[]] * 6), tmp_path)
    assert set(nothing) == set(results) and not any(nothing.values())
    rare = write_labeled(tmp_path / "rare.json", [4, 40, 12, 0])
    cfg = declare(FORMAT="lvis", GROUPS=rare)
    for finds in (SOME, [[]] * 6):
        assert {"APr", "APc"} == {"APr", "APc", "APf"} & set(run(cfg, detections(finds), tmp_path))


def test_more_detections_than_cocos_hundred_count(declare: Any, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    outputs = detections(ALL)
    for row in outputs:
        found = row["output"]["instances"]
        many = Instances(
            (60, 60), pred_boxes=Boxes(torch.tensor([[40.0, 40.0, 41.0, 41.0]]).repeat(150, 1))
        )
        many.pred_classes, many.scores = torch.full((150,), 3), torch.full((150,), 0.9)
        row["output"]["instances"] = Instances.cat([many, found])
    assert run(declare(FORMAT="lvis"), outputs, tmp_path)["AP"] == pytest.approx(100)
    for row in outputs:
        row["output"]["instances"] = Instances.cat(
            [row["output"]["instances"][:150]] * 2 + [row["output"]["instances"]]
        )
    assert run(declare(FORMAT="lvis"), outputs, tmp_path)["AP"] == 0


def test_without_the_lvis_package(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssod.engine.trainer import SSODTrainer

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "lvis" else real(name, *more),
    )
    for start in (lambda: run(cfg, [], tmp_path), lambda: SSODTrainer(cfg)):
        cfg = declare(FORMAT="lvis")
        with pytest.raises(UserError, match="pip install --no-deps lvis") as error:
            start()
        assert "\n" not in str(error.value) and cfg.DATASETS.TEST[0] in str(error.value)
    run(declare(FORMAT="coco"), detections(ALL), tmp_path)


def test_lvis_metrics_depend_on_no_annotation_id(declare: Any, truth: Path, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    outputs = detections([[0, 1], [0], [1, 2], [2], [0], [1]], [[0], [], [1], [], [2], []])
    expected = run(declare(FORMAT="lvis"), outputs, tmp_path)
    content = json.loads(truth.read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number // 3
    content["annotations"].append({**content["annotations"][0], "bbox": [1, 1, 0, 5]})
    truth.write_text(json.dumps(content))
    found = run(declare(FORMAT="lvis"), outputs, tmp_path)
    assert 0 < expected["AP"] < 100 and found == pytest.approx(expected, nan_ok=True)


def test_lvis_leaves_out_images_that_cannot_be_read(declare: Any, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    cfg = declare(FORMAT="lvis")
    name = cfg.DATASETS.TEST[0]
    # Nothing is detected in the sixth image: where it counts, its boxes are missed.
    outputs = detections([[0], [0], [1], [1], [2], []])[:5]
    results = []
    for unreadable in ({}, {6: ("5.png", "broken")}):
        evaluator = build_evaluator(cfg, name, str(tmp_path))
        evaluator.reset()
        evaluator.process([o["input"] for o in outputs], [o["output"] for o in outputs])
        evaluator.unreadable = unreadable
        results.append(evaluator.evaluate()["bbox"]["AP"])
    assert results[1] > results[0]


def test_files_that_are_not_lvis(declare: Any, truth: Path, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    content = json.loads(truth.read_text())
    del content["categories"][1]["frequency"]
    truth.write_text(json.dumps(content))
    cfg = declare(FORMAT="lvis")
    with pytest.raises(UserError, match="categories without a frequency"):
        run(cfg, detections(ALL), tmp_path)
    del content["images"][3]["neg_category_ids"]
    truth.write_text(json.dumps(content))
    with pytest.raises(UserError, match="images without neg_category_ids: use FORMAT coco"):
        run(cfg, detections(ALL), tmp_path)


def test_lvis_records_have_their_files(declare: Any, truth: Path) -> None:
    records = DatasetCatalog.get(declare(FORMAT="lvis").DATASETS.TEST[0])
    assert records[0]["file_name"] == str(truth.parent / "val" / "0.png")
    assert np.unique([a["category_id"] for r in records for a in r["annotations"]]).tolist() == [
        0,
        1,
        2,
    ]
