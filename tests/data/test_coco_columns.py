"""Large COCO files are read in blocks, with the result of the ordinary reader."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from PIL import Image

from packing import identical
from ssod.data import coco, coco_blocks, json_lists
from ssod.data.coco import CocoSet
from ssod.data.coco_columns import read_columns
from ssod.data.coco_content import read_coco
from ssod.data.json_lists import Irregular, lists_of
from ssod.data.packed import PackedRecords
from ssod.errors import UserError

pytest.importorskip("msgspec")
CATEGORIES = [{"id": 7, "name": "dog", "more": [1]}, {"id": 3, "name": 5}]


def image(number: int, **more: Any) -> Dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "height": 40, "width": 60, **more}


def label(number: int, of: int = 1, **more: Any) -> Dict[str, Any]:
    row = {"id": number, "image_id": of, "category_id": 3, "bbox": [1, 2.5, 10, 20.0]}
    return {**row, "area": 200, "iscrowd": 0, **more}


def content(**more: Any) -> Dict[str, Any]:
    return {
        "info": {"text": 'a }, {"b": [ brace', "number": -1.5e3},
        "images": [image(3), image(1), image(2, file_name="sub/ö.png"), image(9)],
        "annotations": [label(4, 2), label(1), label(2, area=12.5), label(3, 9, iscrowd=1)],
        "categories": CATEGORIES,
        **more,
    }


def drop(row: Dict[str, Any], key: str) -> Dict[str, Any]:
    return {k: v for k, v in row.items() if k != key}


READ_IN_BLOCKS: Dict[str, Dict[str, Any]] = {
    "plain": {},
    "in order": {"images": [image(n) for n in range(1, 5)]},
    "no size": {"images": [drop(image(1), "height"), image(2, height=0), image(3, width=None)]},
    "absolute": {"images": [image(n, file_name=f"/other/{n}.png") for n in (1, 2, 9)]},
    "no ids": {"annotations": [drop(label(1), "id"), label(2, 2), drop(label(3, 77), "id")]},
    "id twice": {"annotations": [label(1), label(1, 2)]},
    "no area": {"annotations": [drop(label(1), "area"), drop(label(2), "iscrowd")]},
    "unlisted": {"annotations": [label(1, 50), label(2, 51), label(3, 2)]},
    "bad boxes": {
        "annotations": [
            label(1, bbox=[1, 2, 0, 5]),
            label(2, bbox=[70, 2, 5, 5]),
            label(3, bbox=[-9, 2, 4, 5]),
            label(4, bbox=[1, 2, 3, 4]),
        ]
    },
    "nothing labelled": {"annotations": []},
    "small boxes": {"annotations": [label(n, bbox=[0.1, 0.1, 0.5, 0.5 * n]) for n in range(1, 6)]},
    "segments": {
        "annotations": [
            label(1, segmentation={"counts": [1, 2], "size": [40, 60]}),
            label(2, segmentation=[[1, 2, 3, 4, 5, 6]], parts=[{"a": 1}, {"b": "x}, {y"}]),
        ]
    },
}
REFUSED: Dict[str, Dict[str, Any]] = {
    "text ids": {"images": [image(1), image(2, id="a")]},
    "image twice": {"images": [image(1), image(1)]},
    "file twice": {"images": [image(1), image(2, file_name="1.png")]},
    "no file": {"images": [drop(image(1), "file_name")]},
    "back-slash": {"images": [image(1, file_name="a\\b.png")]},
    "no images": {"images": []},
    "no box": {"annotations": [drop(label(1), "bbox")]},
    "three numbers": {"annotations": [label(1, bbox=[1, 2, 3])]},
    "crowd as text": {"annotations": [label(1, iscrowd="1")]},
    "unknown class": {"annotations": [label(1, category_id=4)]},
    "class twice": {"categories": [*CATEGORIES, {"id": 7, "name": "cat"}]},
    "corners": {"annotations": [label(n, bbox=[20, 15, 55, 35]) for n in range(1, 9)]},
}


def written(folder: Path, changes: Dict[str, Any], indent: Any = None) -> CocoSet:
    for name in ("1.png", "2.png"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / name)
    path = folder / "set.json"
    path.write_text(json.dumps(content(**changes), indent=indent), encoding="utf-8")
    return CocoSet("set", str(path), str(folder))


def outcome(dataset: CocoSet, caplog: pytest.LogCaptureFixture) -> List[Any]:
    """Everything that can be seen of a reading."""
    coco._known_categories.clear()
    coco._conforming.clear()
    caplog.clear()
    try:
        with caplog.at_level(logging.WARNING):
            rows = dataset.labeled_records()
        seen = [list(map(dict, rows)), dataset.categories(), dataset.is_ready_for_coco_eval()]
        return [*seen, list(map(dict, dataset.unlabeled_records())), caplog.messages]
    except UserError as error:
        return [str(error), caplog.messages]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("case", [*READ_IN_BLOCKS, *REFUSED])
def test_both_readers_agree(
    case: str,
    indent: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = written(tmp_path, READ_IN_BLOCKS.get(case, REFUSED.get(case, {})), indent)
    ordinary = outcome(dataset, caplog)
    monkeypatch.setattr(json_lists, "LARGE", 0)
    for size in (1 << 20, 150):  # one block, and blocks that end within entries
        monkeypatch.setattr(json_lists, "_BLOCK", size)
        assert identical(outcome(dataset, caplog), ordinary)
    if case in REFUSED and case != "corners":
        with pytest.raises(Irregular):
            read_columns(dataset.annotations, dataset.images, labeled=True)
    elif case in READ_IN_BLOCKS:
        assert isinstance(dataset.labeled_records(), PackedRecords)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"images": [{"id": 1}',
        '{"images": [{"id": 1}]',
        '{"images": [{"id": 1}], "images": []}',
        '{"images": {"id": 1}}',
        '{"images": [{"id": 1} {"id": 2}]}',
        '{"images": [{"id": 1}]} x',
        '{"other": [{"id": 1}]}',
        '{"info": nonsense, "images": [{"id": 1}]}',
        '\ufeff{"images": [{"id": 1}]}',
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text or " ", encoding="utf-8")
    with pytest.raises(Irregular):
        list(lists_of(str(path), {"images": json.loads}))


@pytest.mark.parametrize("size", [1, 30, 64, 1000])
def test_blocks_join_to_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Wherever the blocks are cut, and whatever the entries hold."""
    monkeypatch.setattr(json_lists, "_BLOCK", size)
    odd = [{"a": "}, {"}, {"b": [{"c": 1}, {"d": [{"e": "]"}]}]}, {"f": '"}, {"'}, {"ä": "}]"}, {}]
    everything = {"n": 12, "x": odd * 3, "y": [], "z": [{"deep": {"deeper": [[{}], {}]}}]}
    path = tmp_path / "x.json"
    for indent in (None, 1):
        path.write_text(json.dumps(everything, indent=indent, ensure_ascii=False), "utf-8")
        found: Dict[str, List[Any]] = {"x": [], "y": [], "z": []}
        for key, entries in lists_of(str(path), dict.fromkeys(found, json.loads)):
            found[key] += entries
        assert found == {key: everything[key] for key in found}


def test_a_broken_file_gets_the_ordinary_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = written(tmp_path, {})
    path = Path(dataset.annotations)
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(json_lists, "LARGE", 0)
    with pytest.raises(UserError, match="may be truncated"):
        dataset.labeled_records()


def test_the_set_is_as_large_as_the_ordinary_reader_says(tmp_path: Path) -> None:
    dataset = written(tmp_path, {})
    found = read_columns(dataset.annotations, dataset.images, labeled=False).records
    images = read_coco(dataset.annotations, ("images",))["images"]
    assert sorted(found.column("image_id")) == sorted(entry["id"] for entry in images)


def test_without_the_extra_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = written(tmp_path, {})
    expected = dataset.labeled_records()
    monkeypatch.setattr(json_lists, "LARGE", 0)
    monkeypatch.setattr(coco_blocks, "msgspec", None)
    with caplog.at_level(logging.INFO):
        assert dataset.labeled_records() == expected
    assert "pip install 'ssod[scale]'" in caplog.text
