"""Packed records: equal to the dicts, shared by views, and statistics without dicts."""

from __future__ import annotations

import pickle
from typing import Any, Dict, List

import numpy as np
import pytest
from detectron2.data import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import check_packing, identical
from ssod.data.label_columns import (
    boxes_per_class,
    has_trained_box,
    images_per_class,
    label_columns,
    repeat_factors,
    trained_boxes,
)
from ssod.data.packed import PackedRecords, column_of
from ssod.data.packing import pack_values
from ssod.data.records import trained_annotations, trained_classes

RLE = {"size": [4, 6], "counts": b"42"}


def box(category: int, *numbers: float, **more: Any) -> Dict[str, Any]:
    row = {"bbox": list(numbers), "bbox_mode": BoxMode.XYWH_ABS, "category_id": category}
    return {**row, "iscrowd": 0, **more}


def records(count: int = 3) -> List[Dict[str, Any]]:
    """Images of two folders with 0, 1, 2, 0, ... boxes, one of them a crowd's."""
    rows = []
    for n in range(count):
        boxes = [box(k, 1.5 * n, 2.0, 10.25, 7.0, iscrowd=int(n % 4 == 2)) for k in range(n % 3)]
        name = f"/images/{'ab'[n % 2]}/{n:06d}.jpg"
        row = {"file_name": name, "image_id": n + 1, "height": 40, "width": 30 + n % 20}
        rows.append({**row, "annotations": boxes})
    return rows


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_id": "a text"},
        {"image_id": 2**70},
        {"file_name": "bild-ä-\udcff.jpg"},
        {"height": 40.0, "width": None},
        {"annotations": [box(1, 1, 2, 3.5, 4, area=5.0)]},  # ints and floats in one box
        {"annotations": [box(1, 1.0, 2.0, 3.0, 4.0, segmentation=RLE, score=0.5)]},
        {"annotations": [box(1, segmentation=[[1.0, 2, 3, 4, 5, 6], [0.5] * 8])]},
        {"annotations": [{**box(1, 0.0, 0.0, 1.0, 1.0), "bbox_mode": BoxMode.XYXY_ABS}]},
        {"annotations": (box(1, 0.0, 0.0, 1.0, 1.0),)},  # a tuple of dicts
        {"annotations": None},
        {"neg_category_ids": [1, 2], "truth": {1: "a", "b": {2.5}}},
        {"stored": {"boxes": np.ones((2, 4), np.float32), "classes": np.array([1, 2])}},
        {"stored": {"boxes": np.ones((2, 4), np.float32), "masks": [RLE, RLE]}},
        {"flags": [True, False, 1, 0.0, -0.0, None, "x"], "number": np.float32(0.1)},
        {"objects": np.array(["a", None], dtype=object), "scalar": np.array(3)},
    ],
)
def test_any_record_comes_back_as_it_was(change: Dict[str, Any]) -> None:
    rows = records(5)
    check_packing([{**rows[0], **change}])  # alone
    rows[2].update(change)
    check_packing(rows)  # among others
    check_packing([{**row, **change} for row in rows])  # everywhere


def test_values_that_cannot_be_pickled_are_held() -> None:
    rows: List[Dict[str, Any]] = [{**row, "call": lambda: 7} for row in records(2)]
    assert PackedRecords.of(rows)[1]["call"]() == 7


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, max_size=12))
def test_any_values_come_back_as_they_were(values: List[Any]) -> None:
    column = pack_values(values)
    assert identical(column.span(0, len(values)), values)
    assert identical([column.span(n, n + 1)[0] for n in range(len(values))], values)


def test_a_list_as_far_as_detectron2_asks() -> None:
    rows = records(6)
    packed = PackedRecords.of(rows)
    assert packed == rows and rows == packed and packed != rows[:5]
    assert packed[-1] == rows[-1] and packed[np.int64(2)] == rows[2]
    assert packed[1:5:2] == rows[1:5:2] and packed[::-1] == rows[::-1] and packed[6:] == []
    assert packed + rows == rows + rows and not PackedRecords.of([])
    with pytest.raises(IndexError):
        packed[6]
    packed[0]["annotations"] = []  # changes a copy
    packed[1]["annotations"].clear()
    assert packed == rows


def test_views_share_their_arrays() -> None:
    rows, more = records(7), records(4)
    joined = PackedRecords.join([PackedRecords.of(rows), PackedRecords.of(more)])
    everything = [*rows, *more]
    named = joined.with_value("dataset_name", "x").only(("file_name", "dataset_name"))
    assert named == [{"file_name": r["file_name"], "dataset_name": "x"} for r in everything]
    index = np.array([9, 0, 3, 10, 2])
    assert joined.take(index) == [everything[i] for i in index]
    assert joined.take(index).take(np.array([4, 1])) == [everything[2], everything[0]]
    odd = np.arange(11) % 2 == 1
    assert joined.where(odd) == everything[1::2]
    table = joined.parts[0].table.columns["file_name"]
    assert joined.where(odd).parts[0].table.columns["file_name"] is table
    assert named.parts[0].table.columns["file_name"] is table


def test_a_column_alone() -> None:
    rows = records(5)
    del rows[3]["height"]
    packed = PackedRecords.of(rows)
    names = column_of(packed, "file_name")
    assert list(names) == [row["file_name"] for row in rows] and names[-1] == rows[4]["file_name"]
    assert packed.whole_numbers("height").tolist() == [40, 40, 40, 0, 40]
    assert packed.take(np.array([3, 4])).whole_numbers("height").tolist() == [0, 40]
    assert packed.whole_numbers("nothing").tolist() == [0] * 5


@pytest.mark.parametrize("change", [{}, {"category_id": np.int64(1)}, {"bbox_mode": 1}])
def test_statistics_equal_those_of_the_dicts(change: Dict[str, Any]) -> None:
    rows = records(12)
    for annotation in rows[5]["annotations"]:
        annotation.update(change)
    del rows[3]["annotations"]
    order = np.array([11, 5, 4, 3, 2, 0, 8, 10])
    for packed, plain in (
        (PackedRecords.of(rows), rows),
        (PackedRecords.of(rows).take(order), [rows[i] for i in order]),
        (PackedRecords.of(rows) + rows[:4], [*rows, *rows[:4]]),
    ):
        labels = label_columns(packed)
        pairs = [(i, a) for i, row in enumerate(plain) for a in row.get("annotations", ())]
        assert labels.image.tolist() == [i for i, _ in pairs]
        assert labels.classes.tolist() == [a["category_id"] for _, a in pairs]
        assert labels.crowd.tolist() == [bool(a["iscrowd"]) for _, a in pairs]
        trained = [trained_classes(row) for row in plain]
        assert has_trained_box(packed).tolist() == [bool(found) for found in trained]
        assert boxes_per_class(labels, 3).tolist() == [sum(trained, []).count(k) for k in range(3)]
        assert images_per_class(labels, 3).tolist() == [
            sum(k in found for found in trained) for k in range(3)
        ]
        boxes = [
            BoxMode.convert(a["bbox"], BoxMode(a["bbox_mode"]), BoxMode.XYXY_ABS)
            for row in plain
            for a in trained_annotations(row)
        ]
        assert trained_boxes(packed).tolist() == boxes


@pytest.mark.parametrize("rare", [0.0, 0.3, 1.0])
def test_repeat_factors_equal_detectron2s(rare: float) -> None:
    rows = records(20)
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(rows, rare)
    labels = label_columns(rows)
    found = repeat_factors(labels.image, labels.classes, len(rows), rare)
    assert found.dtype == np.float32 and found.tolist() == expected.tolist()


def test_memory_is_that_of_the_numbers() -> None:
    """Pickled, a store is its arrays: what else it has does not grow with its records."""
    small, large = (PackedRecords.of(records(count)) for count in (500, 4500))
    other = [len(pickle.dumps(packed)) - packed.nbytes for packed in (small, large)]
    assert other[1] - other[0] < 500
    assert pickle.loads(pickle.dumps(large)) == large
    detectron2 = DatasetFromList(records(4500))
    assert large.nbytes < 0.6 * detectron2._lst.nbytes
