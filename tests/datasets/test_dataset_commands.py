"""The README's commands on miniature trees of the papers' datasets, and every config that uses the
results.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from ssod.data.catalog import load_labeled, load_unlabeled
from ssod.data.class_lists import COCO_TO_OBJECTS365
from ssod.data.classes import check_classes
from ssod.data.splits import check_split_hashes
from ssod.data.voc import VocSet
from ssod.engine.setup import load_config
from ssod.tools.make_splits import main as make_splits

ROOT = Path(__file__).parents[2]
COCO = [(c["id"], c["name"]) for c in COCO_CATEGORIES if c["isthing"]]
VOC = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"  # noqa: E501


def write(
    path: str,
    folder: str,
    names: Sequence[str],
    rows: Sequence[Sequence[int]],
    categories: Sequence[Tuple[int, str]],
    lvis: bool = False,
) -> None:
    """A COCO file with one box for each index of `rows`, and empty files for its images in
    `folder`.
    """
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for i, (name, classes) in enumerate(zip(names, rows)):
        image: Dict[str, Any] = {"id": i + 1, "height": 40, "width": 60}
        if lvis:
            image.update(coco_url=f"http://images.cocodataset.org/{name}", neg_category_ids=[])
            image.update(not_exhaustive_category_ids=[])
        else:
            image["file_name"] = name
        images.append(image)
        target = Path(folder) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        for k in classes:
            number = len(annotations) + 1
            box = {"id": number, "image_id": i + 1, "category_id": categories[k][0]}
            annotations.append({**box, "bbox": [1, 2, 10, 10], "area": 100})
            if not lvis:
                annotations[-1]["iscrowd"] = 0
    listed = [{"id": i, "name": name, "frequency": "c"} for i, name in categories]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": listed}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def coco_tree() -> None:
    parts = {
        "train2017": ("instances_train2017", 240),
        "val2017": ("instances_val2017", 20),
        "train2014": ("instances_train2014", 20),
    }
    for folder, (file, count) in parts.items():
        names = [f"{i:012d}.jpg" for i in range(count)]
        # All classes in each training image: a tenth of them must have 10 boxes of every class.
        shown = 80 if folder == "train2017" else 8
        rows = [[(8 * i + j) % 80 for j in range(shown)] for i in range(count)]
        write(
            f"datasets/coco/annotations/{file}.json", f"datasets/coco/{folder}", names, rows, COCO
        )
    names = [f"COCO_val2014_{i:012d}.jpg" for i in range(20)]
    rows = [[4 * i + j for j in range(4)] for i in range(20)]
    for part, cut in (("minival", slice(0, 5)), ("valminusminival", slice(5, 20))):
        file = f"datasets/coco/annotations/instances_{part}2014.json"
        write(file, "datasets/coco/val2014", names[cut], rows[cut], COCO)
    (Path("datasets/coco/unlabeled2017")).mkdir()
    for i in range(3):
        Path(f"datasets/coco/unlabeled2017/{i}.jpg").touch()


def voc_tree() -> None:
    for year in ("2007", "2012"):
        root = Path(f"datasets/VOC{year}")
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        for i, name in enumerate(VOC.split()):
            Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(root / "JPEGImages" / f"{i}.jpg")
            box = "<xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>12</ymax>"
            (root / "Annotations" / f"{i}.xml").write_text(
                f"<annotation><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
            )
        for split, numbers in (("trainval", range(15)), ("test", range(15, 20))):
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(map(str, numbers)))


def other_trees() -> None:
    shared = [names[0].title() for names in dict.fromkeys(COCO_TO_OBJECTS365.values())]
    names = [*shared, *(f"Other {i}" for i in range(365 - len(shared)))]
    categories = list(enumerate(names, start=1))
    for part, count in (("train", 40), ("val", 3)):
        files = [f"images/v1/patch{i % 3}/objects365_v1_{part}{i:08d}.jpg" for i in range(count)]
        rows = [range(60, 365)] * count
        file = f"datasets/objects365/zhiyuan_objv2_{part}.json"
        write(file, "datasets/objects365", files, rows, categories)
    categories = [(i + 1, f"thing_{i}") for i in range(1203)]
    for part, count in (("train", 40), ("val", 4)):
        files = [f"{part}2017/{i:012d}.jpg" for i in range(count)]
        rows = [range(0, 600) if i % 2 else range(600, 1203) for i in range(count)]
        write(
            f"datasets/lvis/lvis_v1_{part}.json",
            "datasets/coco",
            files,
            rows,
            categories,
            lvis=True,
        )
    for i in range(20):
        path = Path(f"datasets/ILSVRC2012/train/n{i % 4}/{i}.JPEG")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, before = tmp_path_factory.mktemp("trees"), os.getcwd()
    os.chdir(folder)
    try:
        coco_tree()
        voc_tree()
        other_trees()
        text = (ROOT / "datasets" / "README.md").read_text()
        commands = re.findall(
            r"^\d `(python .*)`$", text[text.index("## The papers' datasets") :], re.M
        )
        assert len(commands) == 9
        for command in commands:
            words = shlex.split(command)
            assert words[1:3] == ["-m", "ssod.tools.make_splits"]
            make_splits(words[3:])
    finally:
        os.chdir(before)
    return folder


FOLDERS = (
    "coco_standard",
    "coco_additional",
    "coco_imagenet",
    "voc",
    "ci_ssod",
    "multi_phase",
    "pudet",
)
RUNS = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / "configs" / folder).rglob("*.yaml")
    if not path.name.startswith("base")
)


@pytest.mark.skipif("DETECTRON2_DATASETS" in os.environ, reason="the trees are below datasets/")
def test_every_config_finds_its_data(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    seen = set()
    for run in RUNS:
        cfg = load_config(str(ROOT / run))
        used = (cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED, cfg.DATASETS.TEST)
        key = json.dumps([used, {n: cfg.SSOD.DATASETS.get(n) for names in used for n in names}])
        if key in seen or '"output/' in key:  # made by a command that needs a trained model
            continue
        seen.add(key)
        check_split_hashes(cfg)
        assert check_classes(cfg), run
        assert load_labeled(cfg), run
        cfg.SSOD.PSEUDO_LABELS = ""  # written by an earlier phase
        assert not cfg.DATASETS.UNLABELED or load_unlabeled(cfg), run
        for name in cfg.DATASETS.TEST:
            assert DatasetCatalog.get(name), run
    assert len(seen) >= 8


def test_sizes(tree: Path) -> None:
    def count(path: str) -> int:
        return len(json.loads((tree / "datasets" / path).read_text())["images"])

    assert count("coco/splits/coco_10pct_fold4_labeled.json") == 24
    assert count("coco/splits/coco_0.5pct_fold0_labeled.json") == 1
    assert count("lvis/splits/lvis_v1_10pct_1boxes_fold0_labeled.json") == 4
    objects = "objects365/splits/coco_to_objects365_minority_10boxes_fold0"
    assert count(f"{objects}_labeled.json") == 240 + 10 and count(f"{objects}_unlabeled.json") == 30
    assert count("ILSVRC2012/splits/imagenet_20pct_fold0_unlabeled.json") == 4


def test_voc_classes_are_vocs_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert VocSet("v", "datasets/VOC2007", "test").classes() == VOC.split()
