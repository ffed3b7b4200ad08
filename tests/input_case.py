"""Small valid datasets with a config, which a test changes and then runs as `train_net.py` would.

A run sets up the config, evaluates, trains for one step, and evaluates again. Both evaluations use
an oracle: it returns fixed detections for each file name, so that its AP depends on the data alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import Boxes, Instances
from torch import nn

from ssod.config import add_ssod_config
from ssod.engine.setup import setup
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.evaluation import evaluate
from ssod.evaluation.build import prepare_evaluation
from tiny import CLASSES, tiny_cfg, write_coco

NAMES = {"train": 4, "val": 5, "extra": 3}


def make_valid_data(root: Path) -> None:
    """Writes train, val and extra in COCO format, train and val in VOC's layout, and the tiny
    config.
    """
    for seed, (name, count) in enumerate(NAMES.items()):
        write_coco(root, name, count, seed + 20)
    for name in ("train", "val"):
        _write_voc(root, name)
    defaults = get_cfg()
    add_ssod_config(defaults)
    (root / "tiny.yaml").write_text(_changes(tiny_cfg(), defaults).dump())


def _changes(cfg: CfgNode, defaults: CfgNode) -> CfgNode:
    """The differences from the defaults, because a short file is read faster."""
    changed = CfgNode()
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            below = _changes(value, defaults[key])
            if below:
                changed[key] = below
        elif value != defaults[key]:
            changed[key] = value
    return changed


def _write_voc(root: Path, name: str) -> None:
    content, voc = json.loads((root / f"{name}.json").read_text()), root / f"voc_{name}"
    for folder in ("Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    shutil.copytree(root / name, voc / "JPEGImages")
    stems = []
    for image in content["images"]:
        stem = Path(image["file_name"]).stem
        stems.append(stem)
        objects = ""
        for found in content["annotations"]:
            if found["image_id"] == image["id"]:
                x, y, w, h = found["bbox"]
                objects += (
                    f"<object><name>{CLASSES[found['category_id'] - 1]}</name><bndbox>"
                    f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                    "</bndbox></object>\n"
                )
        text = f"<annotation>\n{objects}</annotation>\n"
        (voc / "Annotations" / f"{stem}.xml").write_text(text)
    (voc / "ImageSets" / "Main" / "all.txt").write_text("".join(f"{s}\n" for s in stems))


class Oracle(nn.Module):
    """Detects the boxes of the valid files: shifted, and one of another class in each image."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.found: Dict[str, List[Tuple[List[float], int, float]]] = {}
        content = json.loads((root / "val.json").read_text())
        rng = np.random.default_rng(0)
        for image in content["images"]:
            rows = []
            for a in content["annotations"]:
                if a["image_id"] == image["id"]:
                    x, y, w, h = np.asarray(a["bbox"]) + rng.uniform(-2, 2, 4)
                    score = float(rng.uniform(0.3, 1.0))
                    rows.append(([x, y, x + w, y + h], a["category_id"] - 1, score))
            rows.append(([0.0, 0.0, 20.0, 20.0], int(rng.integers(3)), float(rng.uniform(0.3, 1))))
            self.found[Path(image["file_name"]).stem] = rows

    def forward(self, inputs: List[Mapping[str, Any]]) -> List[Dict[str, Instances]]:
        outputs = []
        for row in inputs:
            # Names of files that a test renames end in the same way.
            stem = Path(str(row["file_name"])).stem[-3:]
            boxes, classes, scores = zip(*self.found.get(stem, [([0.0, 0.0, 9.0, 9.0], 0, 0.5)]))
            found = Instances((int(row["height"]), int(row["width"])))
            found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            found.pred_classes, found.scores = torch.tensor(classes), torch.tensor(scores)
            outputs.append({"instances": found})
        return outputs


@dataclass
class Case:
    """A copy of the valid data, to be changed before it is run.

    Attributes:
        root: of all files: `train/*.png`, `val/*.png`, `extra/*.png`, `voc_train`, `voc_val`.
        train, val, extra: contents of the COCO files; written when the case is run.
        raw: file name -> bytes that are written instead, such as {"val.json": b""}.
        config: the YAML file's content over tiny.yaml. opts: KEY VALUE pairs of the command line.
    """

    root: Path
    train: Any
    val: Any
    extra: Any
    raw: Dict[str, bytes] = field(default_factory=dict)
    config: Dict[str, Any] = field(default_factory=dict)
    opts: List[str] = field(default_factory=list)

    def declare(self, name: str, **keys: Any) -> None:
        """Changes keys of `SSOD.DATASETS.name`; None removes one."""
        node = self.config["SSOD"]["DATASETS"].setdefault(name, {})
        node.update(keys)
        for key in [key for key, value in node.items() if value is None]:
            del node[key]

    def use(self, kind: str) -> None:
        """Declares training and test sets in VOC's layout ("voc") or the extra set as a folder
        ("folder").
        """
        if kind == "folder":
            self.config["SSOD"]["DATASETS"]["extra"] = {
                "FORMAT": "folder",
                "IMAGES": self.at("extra"),
            }
            return
        for name in ("train", "val"):
            self.config["SSOD"]["DATASETS"][name] = {
                "FORMAT": "voc",
                "ROOT": self.at(f"voc_{name}"),
                "SPLIT": "all",
                "CLASSES": list(CLASSES),
            }

    def learn_from_extra(self) -> None:
        """Makes the run semi-supervised from its first step on."""
        self.config["SSOD"].update(METHODS=["ScoreThreshold"], BURN_IN_STEPS=0)
        self.config["DATASETS"]["UNLABELED"] = ["extra"]

    def at(self, name: str) -> str:
        return str(self.root / name)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Changes a text file below the root."""
        path = self.root / name
        path.write_text(change(path.read_text()))


@dataclass(frozen=True)
class Outcome:
    """The output that a user gets.

    Attributes:
        error: the one line of a refusal; "" where the run ended well.
        log: everything that was logged. skipped_boxes, skipped_images: what the files in OUTPUT_DIR
            list.
        ap: the oracle's AP before training; equal to the one after it. weights: the student's
            digest.
    """

    error: str
    log: str
    skipped_boxes: int = 0
    skipped_images: int = 0
    ap: float = float("nan")
    weights: str = ""


def new_case(valid: Path, folder: Path) -> Case:
    """A case in `folder`, copied from what `make_valid_data` wrote to `valid`."""
    shutil.copytree(valid, folder)
    contents = [json.loads((folder / f"{name}.json").read_text()) for name in NAMES]
    datasets = {
        name: {
            "FORMAT": "coco",
            "ANNOTATIONS": str(folder / f"{name}.json"),
            "IMAGES": str(folder / name),
        }
        for name in NAMES
    }
    config = {
        "_BASE_": str(valid / "tiny.yaml"),
        "DATASETS": {"TRAIN": ["train"], "TEST": ["val"]},
        "SSOD": {"DATASETS": datasets, "METHODS": [], "BURN_IN_STEPS": 0},
        "SOLVER": {"MAX_ITER": 1},
        "OUTPUT_DIR": str(folder / "output"),
    }
    return Case(folder, *contents, config=config)


def run_case(case: Case, valid: Path) -> Outcome:
    """Writes the files of a case and runs it.

    Anything but success and `UserError` is an exception.
    """
    for name in NAMES:
        if f"{name}.json" not in case.raw:
            (case.root / f"{name}.json").write_text(json.dumps(getattr(case, name)))
    for name, content in case.raw.items():
        (case.root / name).write_bytes(content)
    config = case.root / "config.yaml"
    if "config.yaml" not in case.raw:
        config.write_text(yaml.safe_dump(case.config))
    output = Path(case.config["OUTPUT_DIR"])
    error, ap, weights = "", float("nan"), ""
    try:
        cfg = setup(argparse.Namespace(config_file=str(config), opts=list(case.opts)))
        oracle = Oracle(valid)
        prepare_evaluation(cfg, ("TEST",))
        before = _oracle_ap(cfg, oracle)
        trainer = SSODTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        ap, weights = _oracle_ap(cfg, oracle), _digest(trainer.core.student)
        assert ap == before or (np.isnan(ap) and np.isnan(before)), (before, ap)
    except UserError as caught:
        error = str(caught)
        assert error and "\n" not in error, repr(error)
    logs = [path.read_text() for path in output.glob("log.txt*")] if output.is_dir() else []
    boxes, images = (_read(output / f"skipped_{kind}.json") for kind in ("boxes", "images"))
    return Outcome(
        error,
        "".join(logs),
        sum(len(rows) for rows in boxes.values()),
        len(images),
        ap,
        weights,
    )


def _oracle_ap(cfg: Any, oracle: nn.Module) -> float:
    """The AP on the first set of DATASETS.TEST; NaN without one."""
    results = evaluate(
        cfg,
        oracle,
        list(cfg.DATASETS.TEST),
        str(Path(cfg.OUTPUT_DIR) / "oracle"),
        build=partial(SSODTrainer.build_evaluator, cfg),
        build_loader=partial(SSODTrainer.build_test_loader, cfg),
    )
    for tasks in results.values():
        return float(tasks["bbox"]["AP"])
    return float("nan")


def _digest(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode() + value.numpy().tobytes())
    return sha.hexdigest()


def _read(path: Path) -> Dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


Change = Callable[[Case], Any]


@dataclass(frozen=True)
class Row:
    """One input of a user and what must come of it.

    Attributes:
        name: of the row. change: what it does to the valid case.
        refused: words that the one line of a refusal must hold; the run must end well if there are
            none.
        says: words that the log must hold. silent: words that it must not hold.
        like: another change, after which the run must give the same AP and the same weights;
            `unchanged` for the valid data, None for no comparison.
        boxes, images: how many are skipped, as the files in OUTPUT_DIR list them; boxes -1: any
            number.
        weights: False compares the AP alone.
    """

    name: str
    change: Change
    refused: Tuple[str, ...] = ()
    says: Tuple[str, ...] = ()
    silent: Tuple[str, ...] = ()
    like: Any = None
    boxes: int = 0
    images: int = 0
    weights: bool = True


def unchanged(case: Case) -> None:
    """The valid data as they are."""


def check_row(row: Row, run: Callable[[Change], Outcome]) -> None:
    """Runs a row and compares. `run` takes a change; it may remember outcomes."""
    found = run(row.change)
    if row.refused:
        assert found.error, f"not refused; log:\n{found.log}"
        missing = [word for word in row.refused if word not in found.error]
        assert not missing, f"{missing} not in: {found.error}"
        return
    assert not found.error, found.error
    assert [word for word in row.says if word not in found.log] == [], found.log
    assert [word for word in row.silent if word in found.log] == [], found.log
    if row.boxes >= 0:
        assert (found.skipped_boxes, found.skipped_images) == (row.boxes, row.images), found.log
    if row.like is not None:
        expected = run(row.like)
        assert not expected.error, expected.error
        assert found.ap == expected.ap or abs(found.ap - expected.ap) < 1e-9
        assert not row.weights or found.weights == expected.weights
