"""The commands of docs/tutorial.md, typed one after the other in a folder with tiny photographs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import List

import pytest

from ssod.backbones.packages import weights_in_package
from ssod.cli.main import main
from ssod.errors import UserError
from ssod.own_data.machine import WEIGHTS_PACKAGE
from tiny import CLASSES, SIZE, write_coco

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
LABELLED = 20
# Makes a training a matter of seconds.
SHORT = [
    *("SOLVER.MAX_ITER", "3", "SSOD.BURN_IN_STEPS", "1", "SOLVER.WARMUP_ITERS", "0"),
    *("TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.IMS_PER_BATCH", "2"),
    *("SSOD.IMS_PER_BATCH_UNLABELED", "2", "MODEL.DEVICE", "cpu"),
]


def commands() -> List[List[str]]:
    """The commands of the page, in order."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def voc_file(name: str, boxes: List[List[float]], labels: List[int]) -> str:
    """An XML file as labelImg writes it."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", SIZE), ("height", SIZE), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for (x, y, width, height), label in zip(boxes, labels):
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = CLASSES[label]
        corners = ElementTree.SubElement(element, "bndbox")
        for key, number in zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + width, y + height)):
            ElementTree.SubElement(corners, key).text = str(int(number))
    return ElementTree.tostring(root, encoding="unicode")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with photos/: 20 labelled and 12 other images."""
    write_coco(tmp_path, "photos", LABELLED + 12, seed=5)
    truth = json.loads((tmp_path / "photos.json").read_text())
    for path in tmp_path.glob("photos*.json"):
        path.unlink()
    for image in truth["images"][:LABELLED]:
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        text = voc_file(
            image["file_name"], [a["bbox"] for a in own], [a["category_id"] - 1 for a in own]
        )
        (tmp_path / "photos" / image["file_name"]).with_suffix(".xml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def correct(folder: Path) -> int:
    """Does the user's work in LabelMe: here, one box in the middle of each image.

    Images in which the detector found nothing have no file yet.
    """
    images = sorted(folder.rglob("*.png"))
    shape = {"label": CLASSES[0], "points": [[16, 16], [40, 40]], "shape_type": "rectangle"}
    for image in images:
        content = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": image.name}
        size = {"imageData": None, "imageHeight": SIZE, "imageWidth": SIZE}
        image.with_suffix(".json").write_text(json.dumps({**content, **size}))
    return len(images)


def test_ten_commands_or_fewer() -> None:
    ours = [words for words in commands() if words[0] == "ssod"]
    assert len(ours) <= 10
    assert [words[:2] for words in commands() if words not in ours] == [
        ["python", "exported/predict.py"]
    ]


def test_tutorial(folder: Path, capsys: pytest.CaptureFixture) -> None:
    for package in ("timm", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    try:
        weights_in_package(WEIGHTS_PACKAGE)
    except UserError:
        pytest.skip(f"no {WEIGHTS_PACKAGE} here")
    for words in commands():
        if words[0] == "python":
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            continue
        extra: List[str] = []
        if words[1] == "train":
            extra = SHORT
        if words[1] == "start":
            extra = ["--device", "cpu"]
        if words[1] == "splits":
            assert correct(folder / "to_correct") == 10
        assert main([*words[1:], *extra]) == 0, words
    for name in (
        *("output/doctor/photos.jpg", "photos_ssod/config.yaml", "output/photos/report.html"),
        *("next/next.jpg", "output/round_2/results.json", "exported/model.onnx"),
        "detections.json",
    ):
        assert (folder / name).exists(), name
    labelled = json.loads((folder / "photos_ssod" / "train.json").read_text())
    assert len(labelled["images"]) == LABELLED - 4 + 10
