"""Changes of a case's COCO files. See `input_case.Row`."""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, List

from input_case import Case, Change

CAT, IMAGES, BOXES = "categories", "images", "annotations"
NAN, INF = math.nan, math.inf


def both(change: Callable[[Dict[str, Any]], Any]) -> Change:
    """Changes the training and the test file."""

    def run(case: Case) -> None:
        change(case.train)
        change(case.val)

    return run


def every(key: str, edit: Callable[[int, Dict[str, Any]], Any]) -> Change:
    """Edits every entry of a list of both files: `edit(number, entry)`."""

    def change(content: Dict[str, Any]) -> None:
        for number, entry in enumerate(content[key]):
            edit(number, entry)

    return both(change)


def put(which: str, key: str, number: int, **values: Any) -> Change:
    """Sets values of one entry; `...` removes one. `which`: train or val."""

    def change(case: Case) -> None:
        entry = getattr(case, which)[key][number]
        for name, value in values.items():
            if value is ...:
                entry.pop(name, None)
            else:
                entry[name] = value

    return change


def without(which: str, key: str, number: int) -> Change:
    return lambda case: getattr(case, which)[key].pop(number)


def raw(**files: bytes) -> Change:
    return lambda case: case.raw.update({f"{name}.json": data for name, data in files.items()})


def encoded(encoding: str) -> Change:
    """Writes both files in another encoding, with a name that is no ASCII."""

    def change(case: Case) -> None:
        for name in ("train", "val"):
            content = getattr(case, name)
            content["info"] = {"description": "é"}
            text = json.dumps(content, ensure_ascii=False)
            case.raw[f"{name}.json"] = text.encode(encoding)

    return change


def renumber(key: str, new: Callable[[int], Any], refer: str) -> Change:
    """Gives images or categories new ids, and the annotations too."""

    def change(content: Dict[str, Any]) -> None:
        ids = {entry["id"]: new(number) for number, entry in enumerate(content[key])}
        for entry in content[key]:
            entry["id"] = ids[entry["id"]]
        for annotation in content[BOXES]:
            annotation[refer] = ids[annotation[refer]]

    return both(change)


def add(which: str, **values: Any) -> Change:
    """Adds a box to the first image."""

    def change(case: Case) -> None:
        content = getattr(case, which)
        box = {"id": 999, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": 0}
        content[BOXES].append({**box, "area": 400, **values})

    return change


def add_many(which: str, *boxes: Dict[str, Any]) -> Change:
    def change(case: Case) -> None:
        for box in boxes:
            add(which, **box)(case)

    return change


def ids(new: Callable[[int], Any]) -> Change:
    """New annotation ids in both files; `...` removes them."""

    def edit(number: int, entry: Dict[str, Any]) -> None:
        value = new(number)
        if value is ...:
            entry.pop("id")
        else:
            entry["id"] = value

    return every(BOXES, edit)


def shuffled(case: Case) -> None:
    for content in (case.train, case.val):
        for key in (IMAGES, BOXES, CAT):
            content[key].reverse()


def swap_layout(convert: Callable[[List[float]], List[float]]) -> Change:
    return every(BOXES, lambda _, a: a.update(bbox=convert(a["bbox"])))


def as_texts(key: str, name: str) -> Change:
    return every(key, lambda _, entry: entry.update({name: str(entry[name])}))


def extra_image(case: Case) -> None:
    """An image without boxes: the file of the first one under another name."""
    (case.root / "val" / "zzz.png").write_bytes((case.root / "val" / "000.png").read_bytes())
    case.val[IMAGES].append({"id": 77, "file_name": "zzz.png", "height": 64, "width": 64})


def crowd_everywhere(value: Any) -> Change:
    return every(BOXES, lambda _, a: a.update(iscrowd=value))


def drop(key: str, *names: str) -> Change:
    def edit(_: int, entry: Dict[str, Any]) -> None:
        for name in names:
            entry.pop(name, None)

    return every(key, edit)


def both_sets(*changes: Change) -> Change:
    def run(case: Case) -> None:
        for change in changes:
            change(case)

    return run


def second_box_gone(case: Case) -> None:
    case.val[BOXES].pop(1)


def second_train_box_gone(case: Case) -> None:
    case.train[BOXES].pop(1)


def crowd_in_val(case: Case) -> None:
    case.val[BOXES][1]["iscrowd"] = 1


def fewer_classes(case: Case) -> None:
    for content in (case.train, case.val):
        content[BOXES] = [a for a in content[BOXES] if a["category_id"] != 3]


def outline(box: List[float]) -> List[float]:
    """The polygon of an XYWH box."""
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]
