"""Sets that were registered with Detectron2 outside this project. See `input_case.Row`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from input_case import Case, Change, Row, unchanged
from tiny import CLASSES


def records_of(case: Case, which: str) -> List[Dict[str, Any]]:
    content = getattr(case, which)
    rows = []
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        rows.append(
            {
                "file_name": str(case.root / which / image["file_name"]),
                "image_id": image["id"],
                "height": 64,
                "width": 64,
                "annotations": [
                    {
                        "bbox": list(a["bbox"]),
                        "bbox_mode": BoxMode.XYWH_ABS,
                        "category_id": a["category_id"] - 1,
                    }
                    for a in own
                ],
            }
        )
    return rows


def registered(
    edit: Callable[[List[Dict[str, Any]]], Any] = lambda rows: None,
    names: bool = True,
    which: str = "val",
) -> Change:
    """Registers both sets in Detectron2's catalog; `edit` changes the records of one."""

    def run(case: Case) -> None:
        for key, own in (("TRAIN", "train"), ("TEST", "val")):
            rows = records_of(case, own)
            if own == which:
                edit(rows)
            name = f"{case.root.parent.parent.name}_{case.root.name}_{own}"
            DatasetCatalog.register(name, lambda rows=rows: rows)
            if names:
                MetadataCatalog.get(name).thing_classes = list(CLASSES)
            case.config["DATASETS"][key] = [name]

    return run


def every_box(edit: Callable[[Dict[str, Any]], Any]) -> Callable[[List[Dict[str, Any]]], None]:
    def run(rows: List[Dict[str, Any]]) -> None:
        for row in rows:
            for annotation in row["annotations"]:
                edit(annotation)

    return run


def first_box(**values: Any) -> Callable[[List[Dict[str, Any]]], None]:
    return lambda rows: rows[0]["annotations"][0].update(values)


def registered_json(edit: Callable[[Dict[str, Any]], Any] = lambda content: None) -> Change:
    """Registers both COCO files as Detectron2's tutorial does."""

    def run(case: Case) -> None:
        edit(case.val)
        for key, own in (("TRAIN", "train"), ("TEST", "val")):
            name = f"{case.root.parent.parent.name}_{case.root.name}_{own}"
            register_coco_instances(name, {}, case.at(f"{own}.json"), case.at(own))
            case.config["DATASETS"][key] = [name]

    return run


def annotation_ids(new: Callable[[int], Any]) -> Callable[[Dict[str, Any]], None]:
    def run(content: Dict[str, Any]) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = new(number)

    return run


def no_ids(content: Dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        del annotation["id"]


def failing(case: Case) -> None:
    def load() -> List[Dict[str, Any]]:
        raise IndexError("list index out of range")

    name = f"{case.root.parent.parent.name}_{case.root.name}_fails"
    DatasetCatalog.register(name, load)
    case.config["DATASETS"]["TEST"] = [name]


def numpy_boxes(rows: List[Dict[str, Any]]) -> None:
    every_box(lambda a: a.update(bbox=np.array(a["bbox"]), category_id=np.int64(a["category_id"])))(
        rows
    )


def registered_unlabelled(edit: Callable[[List[Dict[str, Any]]], Any]) -> Change:
    def run(case: Case) -> None:
        case.learn_from_extra()
        rows = records_of(case, "extra")
        edit(rows)
        name = f"{case.root.parent.parent.name}_{case.root.name}_extra"
        DatasetCatalog.register(name, lambda: rows)
        case.config["DATASETS"]["UNLABELED"] = [name]

    return run


def too_few_names(case: Case) -> None:
    registered(names=False)(case)
    MetadataCatalog.get(case.config["DATASETS"]["TEST"][0]).thing_classes = ["red"]


def every_row(**values: Any) -> Callable[[List[Dict[str, Any]]], None]:
    """Sets values of every record; `...` removes one."""

    def run(rows: List[Dict[str, Any]]) -> None:
        for row in rows:
            for key, value in values.items():
                row.pop(key) if value is ... else row.update({key: value})

    return run


def as_paths(rows: List[Dict[str, Any]]) -> None:
    for row in rows:
        row["file_name"] = Path(row["file_name"])


def _registered_rows() -> List[Row]:
    """Records that are not of Detectron2's form, or in another layout."""
    rows = [
        ("no list of boxes", lambda r: r[0].update(annotations=3), ("no list",)),
        ("a box 3", lambda r: r[0].update(annotations=[3]), ("is 3, no dict",)),
        ("a record 5", lambda r: r.append(5), ("record 5 is 5, no dict",)),
        ("one image id", every_row(image_id=1), ("the image_id 1 of another image",)),
        ("a mode as text", first_box(bbox_mode="XYWH_ABS"), ("bbox_mode 'XYWH_ABS'",)),
        ("a relative mode", first_box(bbox_mode=BoxMode.XYWH_REL), ("bbox_mode", "in pixels")),
        ("a height as text", every_row(height="64"), ("height of", "'64'")),
        ("a crowd flag 'maybe'", first_box(iscrowd="maybe"), ("'maybe'", "write 0 or 1")),
        (
            "normalised",
            every_box(lambda a: a.update(bbox=[v / 64 for v in a["bbox"]])),
            ("look normalised",),
        ),
        (
            "corners",
            every_box(lambda a: a.update(bbox=[*a["bbox"][:2], *xy_end(a["bbox"])])),
            ("look like corners",),
        ),
    ]
    same = [
        ("no image ids", every_row(image_id=...)),
        ("no sizes", every_row(height=..., width=...)),
        ("crowd flags '0'", every_box(lambda a: a.update(iscrowd="0"))),
        ("crowd flags null", every_box(lambda a: a.update(iscrowd=None))),
        ("file names as Path", as_paths),
    ]
    return [
        *(Row(f"registered: {n}", registered(edit), refused=words) for n, edit, words in rows),
        *(Row(f"registered: {n}", registered(edit), like=unchanged) for n, edit in same),
        Row(
            "registered: train with crowd flags '0'",
            registered(every_box(lambda a: a.update(iscrowd="0")), which="train"),
            like=unchanged,
        ),
        Row("registered: too few names", too_few_names, refused=("thing_classes are 1",)),
        Row(
            "registered: unlabelled without file",
            registered_unlabelled(lambda r: r[0].pop("file_name")),
            refused=('without "file_name"',),
        ),
        Row(
            "registered: unlabelled missing",
            registered_unlabelled(lambda r: r[0].update(file_name="/x/y.png")),
            refused=("/x/y.png", "correct its loader"),
        ),
    ]


def xy_end(box: List[float]) -> List[float]:
    return [box[0] + box[2], box[1] + box[3]]


FIRST_GONE = lambda case: case.val["annotations"].pop(0)  # noqa: E731
FOREIGN = "registered outside"
ROWS: List[Row] = [
    Row("registered", registered(), like=unchanged),
    Row("registered: arrays", registered(numpy_boxes), like=unchanged),
    Row("registered: no class names", registered(names=False), like=unchanged),
    Row(
        "registered: text image ids",
        registered(lambda rows: [r.update(image_id=f"i{r['image_id']}") for r in rows]),
        like=unchanged,
    ),
    Row(
        "registered: classes from 1",
        registered(every_box(lambda a: a.update(category_id=a["category_id"] + 1))),
        refused=("category_id 1 to 3", "NUM_CLASSES 3", "from 0"),
    ),
    Row(
        "registered: train from 1",
        registered(every_box(lambda a: a.update(category_id=a["category_id"] + 1)), which="train"),
        refused=("category_id 1 to 3", "from 0"),
    ),
    Row("registered: class -1", registered(first_box(category_id=-1)), refused=("category_id -1",)),
    Row(
        "registered: class a text",
        registered(first_box(category_id="red")),
        refused=("'red'", "class index"),
    ),
    Row(
        "registered: class null",
        registered(first_box(category_id=None)),
        refused=("None", "class index"),
    ),
    Row(
        "registered: NaN",
        registered(first_box(bbox=[float("nan"), 1, 5, 5])),
        like=FIRST_GONE,
        boxes=1,
    ),
    Row("registered: no box", registered(first_box(bbox=None)), like=FIRST_GONE, boxes=1),
    Row(
        "registered: no mode",
        registered(lambda rows: rows[0]["annotations"][0].pop("bbox_mode")),
        refused=('no "bbox_mode"',),
    ),
    Row(
        "registered: no file",
        registered(lambda rows: rows[0].pop("file_name")),
        refused=('"file_name"',),
    ),
    Row(
        "registered: missing file",
        registered(lambda rows: rows[0].update(file_name="/x/y.png")),
        refused=("/x/y.png", "does not exist"),
    ),
    *_registered_rows(),
    Row("registered: nothing", registered(lambda rows: rows.clear()), refused=("lists no images",)),
    Row("registered: a loader that fails", failing, refused=(FOREIGN, "IndexError")),
    Row("registered JSON", registered_json(), like=unchanged),
    Row(
        "registered JSON: ids from 0", registered_json(annotation_ids(lambda n: n)), like=unchanged
    ),
    Row(
        "registered JSON: equal ids",
        registered_json(annotation_ids(lambda n: 1)),
        refused=(FOREIGN,),
    ),
    Row("registered JSON: no ids", registered_json(no_ids), refused=(FOREIGN, "KeyError")),
    Row(
        "not registered",
        lambda c: c.config["DATASETS"].update(TEST=["vall"]),
        refused=("'vall'", "did you mean 'val'"),
    ),
]
