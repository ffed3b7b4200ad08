"""Reading hidden labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from ssod.data.truth import HiddenTruth, read_truth
from ssod.errors import UserError


def write(path: Path, **changes: object) -> str:
    content = {
        "images": [{"id": 7, "file_name": "sub/a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 7, "category_id": 20, "bbox": [1, 2, 3, 4]},
            {"image_id": 7, "category_id": 30, "bbox": [1, 2, 3, 4]},
            {"image_id": 7, "category_id": 10, "bbox": [0, 0, 0, 4]},
            {"image_id": 7, "category_id": 10, "bbox": [0, 0, 4, 4], "iscrowd": 1},
            {"image_id": 8, "category_id": 10, "bbox": [0, 0, 5, 5], "iscrowd": 0},
        ],
        # In another order than training's, and with a class that training does not have.
        "categories": [
            {"id": 10, "name": "dog"},
            {"id": 20, "name": "cat"},
            {"id": 30, "name": "cow"},
        ],
        **changes,
    }
    path.write_text(json.dumps(content))
    return str(path)


def test_classes_follow_their_names(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path / "truth.json"), ["cat", "dog"])
    assert truth["sub/a.png"].boxes.tolist() == [[1, 2, 4, 6]]
    assert truth["sub/a.png"].classes.tolist() == [0]
    assert truth["b.png"].boxes.tolist() == [[0, 0, 5, 5]]
    assert truth["b.png"].classes.tolist() == [1]


def test_file_without_any_of_the_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the training classes"):
        read_truth(write(tmp_path / "truth.json"), ["horse"])


def test_records_find_their_truth(tmp_path: Path) -> None:
    MetadataCatalog.get("hidden_a").set(
        truth_file=write(tmp_path / "truth.json"), image_root="some/root"
    )
    truth = HiddenTruth(["hidden_a", "hidden_b"], ["cat", "dog"])
    found = truth({"dataset_name": "hidden_a", "file_name": "some/root/sub/a.png"})
    assert found is not None and found.classes.tolist() == [0]
    assert truth({"dataset_name": "hidden_a", "file_name": "some/root/a.png"}) is None
    assert truth({"dataset_name": "hidden_b", "file_name": "some/root/sub/a.png"}) is None
    with pytest.raises(UserError, match="names none of its images, such as c.png"):
        truth.check([{"dataset_name": "hidden_a", "file_name": "some/root/c.png"}])
