"""Paths of files and folders as users write them. See `input_case.Row`."""

from __future__ import annotations

from typing import Callable, List

from input_case import Case, Change, Row, unchanged
from input_changes import declare
from input_rows_images import VAL

# ---------------------------------------------------------------- paths


def in_subfolder(separator: str) -> Change:
    def run(case: Case) -> None:
        for name in ("train", "val"):
            (case.root / name / "sub").mkdir()
            for image in getattr(case, name)["images"]:
                file = case.root / name / image["file_name"]
                file.rename(file.parent / "sub" / file.name)
                image["file_name"] = f"sub{separator}{file.name}"

    return run


def file_names(new: Callable[[Case, str, str], str]) -> Change:
    def run(case: Case) -> None:
        for name in ("train", "val"):
            for image in getattr(case, name)["images"]:
                image["file_name"] = new(case, name, image["file_name"])

    return run


def images_at(find: Callable[[Case], str]) -> Change:
    return lambda case: case.declare("val", IMAGES=find(case))


def annotations_folder(case: Case) -> None:
    case.declare("val", ANNOTATIONS=case.at("val"))


ROWS: List[Row] = [
    Row("paths: subfolder", in_subfolder("/"), like=unchanged),
    Row("paths: back-slashes", in_subfolder("\\"), like=unchanged),
    Row("paths: ./", file_names(lambda c, n, f: f"./{f}"), like=unchanged),
    Row("paths: ..", file_names(lambda c, n, f: f"../{n}/{f}"), like=unchanged),
    Row("paths: absolute", file_names(lambda c, n, f: c.at(f"{n}/{f}")), like=unchanged),
    Row(
        "paths: folder in front",
        file_names(lambda c, n, f: f"{n}/{f}"),
        refused=("val/val/000.png", "does not exist"),
    ),
    Row(
        "paths: addresses",
        file_names(lambda c, n, f: f"http://host/{f}"),
        refused=("http://host/000.png", "does not exist", "val.json"),
    ),
    Row(
        "paths: of another machine",
        file_names(lambda c, n, f: f"C:\\data\\{f}"),
        refused=("does not exist", "val.json"),
    ),
    Row(
        "paths: IMAGES unknown",
        images_at(lambda c: "nowhere"),
        refused=("nowhere", "IMAGES folder", "relative to"),
    ),
    Row("paths: IMAGES a file", images_at(lambda c: c.at("val.json")), refused=("IMAGES",)),
    Row(
        "paths: IMAGES of another set",
        images_at(lambda c: c.at("extra")),
        refused=("003.png", "does not exist", "val.json"),
    ),
    Row(
        "paths: IMAGES one too high",
        images_at(lambda c: str(c.root)),
        refused=("000.png", "does not exist"),
    ),
    Row(
        "paths: ANNOTATIONS unknown",
        declare("val", ANNOTATIONS="no.json"),
        refused=("no.json does not exist", "relative to"),
    ),
    Row(
        "paths: ANNOTATIONS a folder",
        annotations_folder,
        refused=("val cannot be read", "directory"),
    ),
    Row(
        "paths: ANNOTATIONS a list",
        declare("val", ANNOTATIONS=["a.json"]),
        refused=("SSOD.DATASETS.val", "ANNOTATIONS"),
    ),
    Row(
        "paths: ANNOTATIONS an image",
        lambda c: c.declare("val", ANNOTATIONS=c.at(VAL)),
        refused=("001.png is not valid JSON",),
    ),
]
