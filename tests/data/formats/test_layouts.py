"""The same truth in every tool's layout is read as the same records."""

from __future__ import annotations

from pathlib import Path

import pytest

from layouts import ANNOTATED, CLASSES, TRUTH, Writer
from ssod.data.declarations import parse_declaration


@pytest.mark.parametrize("writer", ANNOTATED, ids=lambda writer: writer.__name__)
def test_same_truth(writer: Writer, tmp_path: Path) -> None:
    dataset = parse_declaration("mine", writer(tmp_path / "my set", TRUTH))
    assert dataset.classes() == list(CLASSES)
    found = {}
    for record in dataset.labeled_records():
        found[Path(record["file_name"]).name] = [
            (CLASSES[a["category_id"]], *(round(v, 3) for v in a["bbox"]))
            for a in record["annotations"]
        ]
        assert (record["height"], record["width"]) == (80, 100)
    expected = {name: boxes for name, boxes in TRUTH.items() if boxes is not None}
    if writer.__name__ == "cvat":  # which cannot tell an empty image from one that nobody has seen
        expected.pop("c.jpg")
    assert found == expected
    everything = dataset.unlabeled_records()
    listed = [name for name in TRUTH if not (name == "d.jpg" and writer.__name__ == "table")]
    assert [Path(record["file_name"]).name for record in everything] == listed
    assert all(Path(record["file_name"]).is_file() for record in everything)
    ids = {record["file_name"]: record["image_id"] for record in everything}
    assert all(ids[r["file_name"]] == r["image_id"] for r in dataset.labeled_records())
