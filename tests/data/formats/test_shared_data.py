"""Real images in every layout; skipped where the data sets are not beside the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from detectron2.structures import BoxMode

from layouts import WRITERS, Box, Writer
from ssod.data.declarations import parse_declaration

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SETS = {
    "bccd": {"FORMAT": "voc", "ROOT": str(SHARED / "bccd"), "SPLIT": "val"},
    "cards": {"FORMAT": "voc", "ROOT": str(SHARED / "cards"), "SPLIT": "val"},
    "nuclei": {
        "FORMAT": "coco",
        "ANNOTATIONS": str(SHARED / "nuclei" / "val.json"),
        "IMAGES": str(SHARED / "nuclei" / "images"),
    },
}
_IMAGES = 10


def boxes_of(node: Dict[str, str]) -> Tuple[List[str], Dict[Path, List[Box]]]:
    """(classes, image file -> its boxes)"""
    dataset = parse_declaration("mine", node)
    classes = dataset.classes()
    found: Dict[Path, List[Box]] = {}
    for record in dataset.labeled_records():
        boxes = []
        for a in record["annotations"]:
            corners = BoxMode.convert(list(a["bbox"]), BoxMode(a["bbox_mode"]), BoxMode.XYXY_ABS)
            boxes.append((classes[a["category_id"]], *corners))
        found[Path(record["file_name"])] = boxes
    return classes, found


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets in ../shared/data")
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_same_boxes(writer: Writer, name: str, tmp_path: Path) -> None:
    classes, everything = boxes_of(SETS[name])
    chosen = dict(list(everything.items())[:_IMAGES])
    truth = {path.name: boxes for path, boxes in chosen.items()}
    node = writer(tmp_path, truth, next(iter(chosen)).parent, classes)
    _, found = boxes_of(node)
    assert {path.name: len(boxes) for path, boxes in found.items()} == {
        path: len(boxes) for path, boxes in truth.items()
    }
    for path, boxes in found.items():
        for read, written in zip(boxes, truth[path.name]):
            assert read[0] == written[0]
            assert read[1:] == pytest.approx(written[1:], abs=0.01)
