"""Unlabelled images as users have them. See `input_case.Row`."""

from __future__ import annotations

import os
from typing import List

from input_case import Case, Change, Row
from input_changes import chain, declare


def semi(case: Case) -> None:
    case.learn_from_extra()


def extra_folder(*changes: Change) -> Change:
    return chain(semi, lambda case: case.use("folder"), *changes)


def link_loop(case: Case) -> None:
    os.symlink(case.root / "extra", case.root / "extra" / "loop")
    os.symlink(".", case.root / "extra" / "self")


def others(case: Case) -> None:
    (case.root / "extra" / "a.gif").write_bytes(b"GIF89a")
    (case.root / "extra" / "notes.heic").write_bytes(b"x")
    (case.root / "extra" / ".hidden.png").write_bytes(b"x")


def only_gifs(case: Case) -> None:
    for path in (case.root / "extra").iterdir():
        path.rename(path.with_suffix(".gif"))


def nested(case: Case) -> None:
    """The files keep their order."""
    folder = case.root / "extra" / "deep" / "er"
    folder.mkdir(parents=True)
    for path in list((case.root / "extra").glob("*.png")):
        path.rename(folder / (path.stem + ".PNG"))


def one_set_twice(case: Case) -> None:
    semi(case)
    case.config["SSOD"]["DATASETS"]["again"] = {"FORMAT": "folder", "IMAGES": case.at("extra")}
    case.config["DATASETS"]["UNLABELED"] = ["extra", "again"]


FOLDER = extra_folder()
ROWS: List[Row] = [
    Row("unlabelled", semi, like=semi),
    Row("unlabelled: folder", FOLDER, like=semi),
    Row("unlabelled: link loop", extra_folder(link_loop), like=semi),
    Row(
        "unlabelled: other suffixes",
        extra_folder(others),
        like=semi,
        says=("left out 2 files", ".gif", ".heic"),
    ),
    Row(
        "unlabelled: broken link",
        extra_folder(lambda c: os.symlink("nowhere.png", c.at("extra/dangling.png"))),
        refused=("dangling.png", "a link that leads nowhere"),
    ),
    Row(
        "unlabelled: the test set",
        chain(semi, lambda c: c.config["DATASETS"].update(UNLABELED=["val"])),
        says=("DATASETS.TEST val is learned from without its labels",),
    ),
    Row(
        "unlabelled: a set twice",
        chain(semi, lambda c: c.config["DATASETS"].update(UNLABELED=["extra", "extra"])),
        says=("DATASETS.UNLABELED names extra 2 times",),
    ),
    Row(
        "unlabelled: only GIF",
        extra_folder(only_gifs),
        refused=("extra", "holds no image files", ".png"),
    ),
    Row(
        "unlabelled: pipe",
        extra_folder(lambda c: os.mkfifo(c.at("extra/pipe.png"))),
        like=semi,
        says=("left out 1 pipes, sockets or devices", "pipe.png"),
    ),
    Row(
        "unlabelled: not declared, in a supervised run",
        lambda c: c.config["DATASETS"].update(UNLABELED=["extro"]),
        refused=("'extro'", "did you mean 'extra'"),
    ),
    Row(
        "unlabelled: no folder, in a supervised run",
        chain(
            lambda c: c.use("folder"),
            declare("extra", IMAGES="nowhere"),
            lambda c: c.config["DATASETS"].update(UNLABELED=["extra"]),
        ),
        refused=("nowhere", "is no folder"),
    ),
    Row("unlabelled: nested", extra_folder(nested), like=semi),
    Row("unlabelled: two sets", one_set_twice),
    Row(
        "unlabelled: no folder",
        extra_folder(declare("extra", IMAGES="nowhere")),
        refused=("nowhere", "is no folder"),
    ),
    Row("unlabelled: no annotations", chain(semi, lambda c: c.extra.pop("annotations")), like=semi),
    Row("unlabelled: no categories", chain(semi, lambda c: c.extra.pop("categories")), like=semi),
    Row(
        "unlabelled: strange boxes",
        chain(semi, lambda c: c.extra.update(annotations=[None, 3])),
        like=semi,
    ),
    Row(
        "unlabelled: image id null",
        chain(semi, lambda c: c.extra["images"][0].update(id=None)),
        refused=("extra.json", "images[0]"),
    ),
    Row(
        "unlabelled: image missing",
        chain(semi, lambda c: c.extra["images"][0].update(file_name="x.png")),
        refused=("x.png", "extra.json"),
    ),
    Row(
        "unlabelled: no images",
        chain(semi, lambda c: c.extra.update(images=[])),
        refused=("extra.json lists no images",),
    ),
    Row(
        "a folder to train on",
        chain(lambda c: c.use("folder"), lambda c: c.config["DATASETS"].update(TRAIN=["extra"])),
        refused=("extra", "without labels"),
    ),
    Row(
        "a folder to test on",
        chain(lambda c: c.use("folder"), lambda c: c.config["DATASETS"].update(TEST=["extra"])),
        refused=("extra", "without labels"),
    ),
]
