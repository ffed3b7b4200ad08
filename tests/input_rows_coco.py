"""COCO files that a user may have, and what must come of each. See `input_case.Row`."""

from __future__ import annotations

import copy
import json
from typing import Any, Callable, Dict, List

from input_case import Case, Change, Row, unchanged
from input_changes_coco import (
    BOXES,
    CAT,
    IMAGES,
    INF,
    NAN,
    add,
    as_texts,
    both,
    both_sets,
    crowd_everywhere,
    crowd_in_val,
    drop,
    encoded,
    every,
    extra_image,
    fewer_classes,
    ids,
    outline,
    put,
    raw,
    renumber,
    second_box_gone,
    second_train_box_gone,
    shuffled,
    swap_layout,
)

IDS = [
    ("from 0", lambda n: n),
    ("negative", lambda n: -n - 1),
    ("all equal", lambda n: 5),
    ("two equal", lambda n: max(n, 1)),
    ("all 0", lambda n: 0),
    ("texts", lambda n: f"box-{n}"),
    ("none", lambda n: ...),
    ("null", lambda n: None),
    ("lists", lambda n: [n]),
    ("huge", lambda n: 2**70 + n),
    ("of images", lambda n: n // 2),
]
# Boxes that cannot be used, each in place of the second one of the test set and of the training
# set.
UNUSABLE = [
    ("NaN", {"bbox": [NAN, 5, 10, 10]}),
    ("infinite", {"bbox": [5, 5, INF, 10]}),
    ("no width", {"bbox": [5, 5, 0, 10]}),
    ("negative height", {"bbox": [5, 5, 10, -3]}),
    ("outside", {"bbox": [70, 5, 10, 10]}),
    ("left of the image", {"bbox": [-30, 5, 10, 10]}),
    ("three numbers", {"bbox": [5, 5, 10]}),
    ("five numbers", {"bbox": [5, 5, 10, 10, 0]}),
    ("empty", {"bbox": []}),
    ("null", {"bbox": None}),
    ("missing", {"bbox": ...}),
    ("an object", {"bbox": {"x": 1, "y": 1, "w": 5, "h": 5}}),
    ("a text", {"bbox": "5 5 10 10"}),
    ("texts", {"bbox": ["5", "5", "10", "10"]}),
    ("with null", {"bbox": [5, None, 10, 10]}),
    ("with booleans", {"bbox": [True, True, True, True]}),
    ("nested", {"bbox": [[5, 5, 10, 10]]}),
    ("beyond floats", {"bbox": [5, 5, 10**400, 10]}),
    ("of an unknown image", {"image_id": 12345}),
]
# No number depends on the sizes, flags and areas that converters leave out or misuse.
HARMLESS = [
    ("areas left out", drop(BOXES, "area")),
    ("areas 0", every(BOXES, lambda _, a: a.update(area=0))),
    ("areas null", every(BOXES, lambda _, a: a.update(area=None))),
    ("areas as texts", every(BOXES, lambda _, a: a.update(area="9"))),
    ("areas as lists", every(BOXES, lambda _, a: a.update(area=[9]))),
    ("area NaN", put("val", BOXES, 0, area=NAN)),
    ("iscrowd left out", drop(BOXES, "iscrowd")),
    ("iscrowd null", crowd_everywhere(None)),
    ("iscrowd false", crowd_everywhere(False)),
    ("iscrowd '0'", crowd_everywhere("0")),
    ("iscrowd 'False'", crowd_everywhere("False")),
    ("iscrowd ''", crowd_everywhere("")),
    ("iscrowd 0.0", crowd_everywhere(0.0)),
    ("iscrowd NaN", crowd_everywhere(NAN)),
    ("segmentation empty", every(BOXES, lambda _, a: a.update(segmentation=[]))),
    ("segmentation null", every(BOXES, lambda _, a: a.update(segmentation=None))),
    ("segmentation strange", every(BOXES, lambda _, a: a.update(segmentation={"a": [1]}))),
    ("polygons alone", every(BOXES, lambda _, a: a.update(segmentation=[outline(a.pop("bbox"))]))),
    ("sizes left out", drop(IMAGES, "height", "width")),
    ("sizes -1", every(IMAGES, lambda _, i: i.update(height=-1, width=-1))),
    ("sizes 0", every(IMAGES, lambda _, i: i.update(height=0, width=0))),
    ("sizes null", every(IMAGES, lambda _, i: i.update(height=None, width=None))),
    ("sizes as floats", every(IMAGES, lambda _, i: i.update(height=64.0, width=64.0))),
    ("one size", drop(IMAGES, "width")),
    ("info null", both(lambda c: c.update(info=None))),
    ("info a list", both(lambda c: c.update(info=["x"], licenses=None))),
    ("keys of others", every(IMAGES, lambda n, i: i.update(license=None, coco_url=None))),
    ("supercategories strange", every(CAT, lambda n, c: c.update(supercategory=[n]))),
    ("image ids from 0", renumber(IMAGES, lambda n: n, "image_id")),
    ("image ids negative", renumber(IMAGES, lambda n: n - 9, "image_id")),
    ("image ids huge", renumber(IMAGES, lambda n: 10**20 + n, "image_id")),
    ("image ids as texts", renumber(IMAGES, lambda n: f"{n:06d}", "image_id")),
    ("image ids as floats", renumber(IMAGES, lambda n: float(n + 1), "image_id")),
    ("image ids mixed", renumber(IMAGES, lambda n: n + 1 if n < 2 else f"z{n}", "image_id")),
    ("image ids as texts in boxes", as_texts(BOXES, "image_id")),
    ("image ids as texts in images", as_texts(IMAGES, "id")),
    ("category ids from 0", renumber(CAT, lambda n: n, "category_id")),
    ("category ids with gaps", renumber(CAT, lambda n: 10 * n + 7, "category_id")),
    ("category ids as texts", renumber(CAT, lambda n: "abc"[n], "category_id")),
    ("category ids as texts in boxes", as_texts(BOXES, "category_id")),
    ("category ids as texts in categories", as_texts(CAT, "id")),
    ("numbers as category names", every(CAT, lambda n, c: c.update(name=n))),
    ("category names not ASCII", every(CAT, lambda n, c: c.update(name=f"{n} 猫 é"))),
    ("UTF-8 with a mark", encoded("utf-8-sig")),
    ("UTF-16", encoded("utf-16")),
    ("UTF-32", encoded("utf-32")),
]


def hash_in_a_list(case: Case) -> None:
    """The key of split files, in a place that is no object."""
    case.val["info"] = ["ssod_sha256"]


def groups_of(edit: Callable[[Dict[str, Any]], Any]) -> Change:
    """GROUPS of the test set: a changed copy of the training file."""

    def run(case: Case) -> None:
        content = copy.deepcopy(case.train)
        edit(content)
        case.raw["groups.json"] = json.dumps(content).encode()
        case.declare("val", GROUPS=case.at("groups.json"))

    return run


# Text that is no COCO file, as the test set and as the training set.
BROKEN = [
    ("nothing", b"", ("is empty",)),
    ("blanks", b"  \n", ("is empty",)),
    ("cut off", b'{"images": [{"id": 1, ', ("is not valid JSON", "truncated")),
    ("no JSON", b"id,x,y", ("is not valid JSON",)),
    ("latin-1", '{"images": "é"}'.encode("latin-1"), ("is not valid JSON",)),
    ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", ("Git LFS",)),
    ("a list", b"[]", ('has no list "images"',)),
    ("null", b"null", ('has no list "images"',)),
    ("a number", b"3", ('has no list "images"',)),
    ("an empty object", b"{}", ('has no list "images"',)),
    ("deep", b"[" * 200_000, ("nested too deeply",)),
    ("no boxes key", b'{"images": [], "categories": []}', ('has no list "annotations"',)),
    ("zip", b"PK\x03\x04\x00\x00", ("is not valid JSON",)),
]
# Values of one key that no reader can do without: (list, key, value, words).
REFUSED = [
    (IMAGES, "id", None, ("images[1]", "the id null")),
    (IMAGES, "id", [1], ("images[1]", "the id [1]")),
    (IMAGES, "id", True, ("images[1]", "the id true")),
    (IMAGES, "id", 1.5, ("images[1]", "the id 1.5")),
    (IMAGES, "id", ..., ("images[1]", 'no "id"')),
    (IMAGES, "id", 1, ("two images with the id 1",)),
    (IMAGES, "file_name", None, ('without "id" or "file_name"', "images[1]")),
    (IMAGES, "file_name", "", ('without "id" or "file_name"', "images[1]")),
    (IMAGES, "file_name", 7, ('without "id" or "file_name"', "images[1]")),
    (IMAGES, "file_name", ["a.png"], ('without "id" or "file_name"', "images[1]")),
    (IMAGES, "file_name", "none.png", ("none.png", "does not exist")),
    (IMAGES, "file_name", "000.jpg", ("000.jpg", "does not exist", "the folder holds 000.png")),
    (IMAGES, "file_name", "000.PNG", ("000.PNG", "does not exist", "the folder holds 000.png")),
    (IMAGES, "height", "64", ("images[1]", "write numbers")),
    (IMAGES, "width", [64], ("images[1]", "write numbers")),
    (BOXES, "image_id", None, ("annotations[1]", "the image_id null")),
    (BOXES, "image_id", ..., ("annotations[1]", 'no "image_id"')),
    (BOXES, "image_id", {"a": 1}, ("annotations[1]", "the image_id")),
    (BOXES, "category_id", None, ("annotations[1]", "the category_id null")),
    (BOXES, "category_id", 9, ("category_id 9", 'not in "categories"')),
    (BOXES, "category_id", 0, ("category_id 0", 'not in "categories"')),
    (BOXES, "category_id", [1], ("annotations[1]", "the category_id [1]")),
    (BOXES, "iscrowd", [0], ("annotations[1]", "the iscrowd [0]", "write 0 or 1")),
    (BOXES, "iscrowd", "maybe", ("annotations[1]", "'maybe'", "write 0 or 1")),
    (CAT, "id", None, ("categories[1]", "the id null")),
    (CAT, "id", 1, ("two categories with the id 1",)),
    (CAT, "id", "x", ("numbers and with texts as id",)),
    (CAT, "name", None, ("categories[1]", "the name null")),
    (CAT, "name", ["x"], ("categories[1]", "the name")),
    (CAT, "name", "red", ("two categories with the name 'red'",)),
    (CAT, "name", ..., ('a category without "id" or "name"', "categories[1]")),
]


def _refused_rows() -> List[Row]:
    rows = []
    for number, (key, name, value, words) in enumerate(REFUSED):
        which = "val" if number % 2 else "train"
        change = put(which, key, 1, **{name: value})
        text = "missing" if value is ... else repr(value)[:30]
        rows.append(Row(f"{which}: {key} {name} {text}", change, refused=(f"{which}.json", *words)))
        if name in ("id", "image_id", "category_id") and not number % 3:
            other = "train" if which == "val" else "val"
            again = put(other, key, 1, **{name: copy.deepcopy(value)})
            rows.append(
                Row(f"{other}: {key} {name} {text}", again, refused=(f"{other}.json", *words))
            )
    return rows


def _broken_rows() -> List[Row]:
    rows = []
    for number, (name, data, words) in enumerate(BROKEN):
        which = "val" if number % 2 else "train"
        rows.append(
            Row(f"{which}: {name}", raw(**{which: data}), refused=(f"{which}.json", *words))
        )
    return rows


def _unusable_rows() -> List[Row]:
    rows = []
    for number, (name, values) in enumerate(UNUSABLE):
        which = "train" if number % 3 == 2 else "val"
        like = second_box_gone if which == "val" else second_train_box_gone
        change = put(which, BOXES, 1, **values)
        rows.append(Row(f"{which}: box {name}", change, like=like, boxes=1, says=("skipped 1",)))
    return rows


XYXY = swap_layout(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
CENTRES = swap_layout(lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])
NORMALISED = swap_layout(lambda b: [v / 64 for v in b])
NORMALISED_CORNERS = both_sets(XYXY, NORMALISED)
WITHOUT_SIZES = drop(IMAGES, "height", "width")


def few_normalised(case: Case) -> None:
    for annotation in case.train[BOXES][:2]:
        annotation["bbox"] = [v / 64 for v in annotation["bbox"]]


def one_class_more(case: Case) -> None:
    case.val[CAT].append({"id": 9, "name": "extra"})


def list_twice(case: Case) -> None:
    text = json.dumps(case.val)
    case.raw["val.json"] = f'{text[:-1]}, "annotations": []}}'.encode()


def polygon_with(value: float) -> Change:
    """One more box of the test set, given by a polygon alone."""
    polygon = [[1, 2, value, 4, 5, 6]]
    return lambda case: add("val", bbox=None, segmentation=polygon)(case)


TWICE_AS_LARGE = swap_layout(lambda b: [v * 3 for v in b])

ROWS: List[Row] = [
    Row("valid", unchanged, like=unchanged),
    *(Row(f"annotation ids {name}", ids(new), like=unchanged) for name, new in IDS),
    *(Row(name, change, like=unchanged, weights="mixed" not in name) for name, change in HARMLESS),
    *_unusable_rows(),
    *_broken_rows(),
    *_refused_rows(),
    Row("records reversed", shuffled, like=unchanged, weights=False),
    Row("crowd as a text", put("val", BOXES, 1, iscrowd="1"), like=crowd_in_val),
    Row("crowd as true", put("val", BOXES, 1, iscrowd=True), like=crowd_in_val),
    Row("an image without boxes", extra_image),
    Row("hash in a list", hash_in_a_list, like=unchanged),
    Row("groups", groups_of(lambda c: None), like=unchanged),
    Row("groups: info a list", groups_of(lambda c: c.update(info=[1])), like=unchanged),
    Row(
        "groups: no object as split",
        groups_of(lambda c: c.update(info={"ssod_split": [1]})),
        like=unchanged,
    ),
    Row("groups: no box", groups_of(lambda c: c[BOXES][0].pop("bbox")), like=unchanged),
    Row("groups: null", groups_of(lambda c: c.update(images=None)), refused=("groups.json",)),
    Row("class without boxes", fewer_classes, says=("no box of blue",)),
    Row("corners", XYXY, refused=("val.json", "XYXY", "XYWH")),
    Row(
        "centres",
        CENTRES,
        says=("train.json", "leave their image", "(cx, cy, width, height)"),
        boxes=-1,
    ),
    Row("normalised", NORMALISED, refused=("val.json", "normalised", "pixels")),
    Row("corners without sizes", both_sets(XYXY, WITHOUT_SIZES), refused=("val.json", "XYXY")),
    Row("normalised corners", NORMALISED_CORNERS, refused=("val.json", "normalised", "pixels")),
    Row("a few normalised", few_normalised, says=("2 of 7 boxes lie between 0 and 1",)),
    Row(
        "outside without sizes",
        both_sets(put("val", BOXES, 1, bbox=[70, 5, 10, 10]), WITHOUT_SIZES),
        like=second_box_gone,
        boxes=1,
    ),
    Row("polygon NaN", polygon_with(NAN), like=unchanged, boxes=1),
    Row("polygon infinite", polygon_with(INF), like=unchanged, boxes=1),
    Row(
        "one file twice",
        put("val", IMAGES, 1, file_name="000.png"),
        says=("1 of 5 images have the file of another one", "000.png"),
    ),
    Row("one class more", one_class_more, refused=("val.json", "only in val: extra")),
    Row("a list twice", list_twice, refused=("val.json", '"annotations" twice')),
    Row(
        "names of lists elsewhere",
        lambda c: c.val.update(info={"annotations": [], "images": 3}),
        like=unchanged,
    ),
    Row(
        "file names with line breaks",
        put("val", IMAGES, 1, file_name="0\n1.png"),
        refused=("0 1.png", "val.json"),
    ),
    Row("boxes of larger images", TWICE_AS_LARGE, says=("leave their image",), boxes=-1),
    Row(
        "no boxes",
        lambda c: c.train.update(annotations=[]),
        refused=("train.json", "no usable box"),
    ),
    Row(
        "no usable boxes",
        every(BOXES, lambda _, a: a.update(bbox=[1, 1, 0, 0])),
        refused=("train.json", "no usable box", "no area"),
    ),
    Row("no images", lambda c: c.val.update(images=[]), refused=("val.json", "lists no images")),
    Row(
        "images null", lambda c: c.val.update(images=None), refused=("val.json", 'no list "images"')
    ),
    Row(
        "images objects", lambda c: c.val.update(images={"a": 1}), refused=("val.json", '"images"')
    ),
    Row(
        "an image 7",
        lambda c: c.val[IMAGES].insert(1, 7),
        refused=("val.json", '7 in its list "images"'),
    ),
    Row(
        "a box null",
        lambda c: c.val[BOXES].append(None),
        refused=("val.json", 'null in its list "annotations"'),
    ),
    Row(
        "a category text",
        lambda c: c.val[CAT].append("x"),
        refused=("val.json", 'list "categories"'),
    ),
    Row(
        "nothing in the test set",
        lambda c: c.val.update(categories=[], annotations=[]),
        refused=("val.json", "names no classes"),
    ),
    Row(
        "no categories",
        lambda c: c.train.update(categories=[]),
        refused=("train.json", '"categories"'),
    ),
]
