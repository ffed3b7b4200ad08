"""Label Studio files that are not as the manual says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

import pytest

from awkward_files import problem, read, studio, task
from layouts import save_image


@pytest.mark.parametrize(
    "value, expected",
    [
        ({"x": 10, "y": 25, "width": 20, "height": 25}, (10, 20, 30, 40)),
        # Turned by 90 degrees about the top left corner, 20 x 40 pixels lie to its left.
        ({"x": 50, "y": 25, "width": 20, "height": 50, "rotation": 90}, (10, 20, 50, 40)),
        ({"points": [[10, 25], [30, 30], [20, 50]]}, (10, 20, 30, 40)),
        ({"x": 50, "y": 50, "radiusX": 20, "radiusY": 12.5}, (30, 30, 70, 50)),
        ({"x": -3, "y": 25, "width": 20, "height": 80}, (-3, 20, 17, 84)),
    ],
)
def test_label_studio_region(
    value: Dict[str, Any], expected: Tuple[float, ...], tmp_path: Path
) -> None:
    kind = "polygonlabels" if "points" in value else "rectanglelabels"
    node = studio(tmp_path, task({**value, kind: ["cat"]}))
    assert read(node) == {"a.jpg": [("cat", *expected)]}


GOOD = {"x": 10, "y": 25, "width": 20, "height": 25, "rectanglelabels": ["cat"]}


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/0a1b2c3d-a.jpg",
        "/data/local-files/?d=set%201/a.jpg",
        "s3://bucket/folder/a.jpg",
        "https://example.org/x/a.jpg?width=100",
        "C:\\photos\\a.jpg",
    ],
)
def test_label_studio_image(image: str, tmp_path: Path) -> None:
    assert list(read(studio(tmp_path, task(GOOD, image=image)))) == ["a.jpg"]


def test_label_studio_annotations_that_count(tmp_path: Path) -> None:
    box = {**GOOD, "rectanglelabels": ["dog"]}
    first, second = task(GOOD)["annotations"][0], task(box)["annotations"][0]
    both = {"data": {"image": "a.jpg"}, "predictions": [{"result": []}]}
    early, late = {**first, "updated_at": "2026-01-02"}, {**second, "updated_at": "2026-01-03"}
    latest = studio(tmp_path / "1", {**both, "annotations": [late, early]})
    assert read(latest)["a.jpg"][0][0] == "dog"
    chosen = {**early, "ground_truth": True}
    assert (
        read(studio(tmp_path / "2", {**both, "annotations": [late, chosen]}))["a.jpg"][0][0]
        == "cat"
    )
    cancelled = [early, {**late, "was_cancelled": True}]
    assert read(studio(tmp_path / "3", {**both, "annotations": cancelled}))["a.jpg"][0][0] == "cat"
    assert "no labelled image" in problem(studio(tmp_path / "4", {**both, "annotations": []}))
    assert read(studio(tmp_path / "5", {**both, "annotations": [{"result": []}]})) == {"a.jpg": []}


def test_label_studio_json_min(tmp_path: Path) -> None:
    save_image(tmp_path / "b.jpg")
    node = studio(tmp_path, {"image": "a.jpg", "id": 1, "tag": [GOOD]}, {"image": "b.jpg", "id": 2})
    assert read(node) == {"a.jpg": [("cat", 10, 20, 30, 40)]}


def test_label_studio_regions_that_are_no_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brush = {"format": "rle", "rle": [1, 2], "brushlabels": ["cat"]}
    point = {"x": 1, "y": 2, "width": 0.5, "keypointlabels": ["cat"]}
    two = {**GOOD, "rectanglelabels": ["cat", "dog"]}
    node = studio(tmp_path, task(GOOD, brush, point, {"choices": ["sharp"]}, two, {"x": "1"}))
    assert [box[0] for box in read(node)["a.jpg"]] == ["cat", "cat", "dog"]
    assert "skipped 2 unusable boxes (2 of a shape that has no box)" in caplog.text
    (tmp_path / "export.json").write_text('{"images": []}')
    assert "no export of Label Studio" in problem(node)
