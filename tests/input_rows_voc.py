"""VOC layouts as users have them. See `input_case.Row`."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ElementTree
from typing import Any, Callable, List

from input_case import Case, Change, Row, unchanged
from input_changes import chain

SPLIT = "voc_{}/ImageSets/Main/all.txt"


def voc(case: Case) -> None:
    case.use("voc")


def in_splits(change: Callable[[str], str]) -> Change:
    def run(case: Case) -> None:
        voc(case)
        for name in ("train", "val"):
            case.edit(SPLIT.format(name), change)

    return run


def split_bytes(encode: Callable[[str], bytes]) -> Change:
    def run(case: Case) -> None:
        voc(case)
        for name in ("train", "val"):
            path = case.root / SPLIT.format(name)
            path.write_bytes(encode(path.read_text()))

    return run


def declared(**keys: Any) -> Change:
    """VOC's test set with other keys."""
    return chain(voc, lambda case: case.declare("val", **keys))


def in_xml(change: Callable[[str], str], which: str = "val") -> Change:
    return chain(voc, lambda case: case.edit(f"voc_{which}/Annotations/001.xml", change))


def xml_bytes(data: bytes) -> Change:
    def run(case: Case) -> None:
        voc(case)
        (case.root / "voc_val/Annotations/001.xml").write_bytes(data)

    return run


def rename_to(new: Callable[[str], str]) -> Change:
    """Renames every image and its XML file; the splits follow."""

    def run(case: Case) -> None:
        voc(case)
        for name in ("train", "val"):
            root = case.root / f"voc_{name}"
            for path in [*(root / "JPEGImages").iterdir(), *(root / "Annotations").iterdir()]:
                path.rename(path.with_name(new(path.stem) + path.suffix))
            case.edit(SPLIT.format(name), lambda t: "".join(f"{new(s)}\n" for s in t.split()))

    return run


def renamed_split(case: Case) -> None:
    voc(case)
    (case.root / SPLIT.format("val")).rename(case.root / "voc_val/ImageSets/Main/2007.txt")
    case.declare("val", SPLIT=2007)


def mac_archive(case: Case) -> None:
    voc(case)
    for name in ("train", "val"):
        (case.root / f"voc_{name}/Annotations/._000.xml").write_bytes(b"\x00\x05\x16\x07")
        (case.root / f"voc_{name}/JPEGImages/._000.png").write_bytes(b"\x00\x05\x16\x07")
        case.declare(name, CLASSES=None)
    # Without CLASSES the classes are sorted by name: blue, green, red.


def without_classes(case: Case) -> None:
    voc(case)
    for name in ("train", "val"):
        case.declare(name, CLASSES=None)


def one_object(text: str) -> str:
    """The first object of an XML file, removed."""
    start = text.index("<object>")
    return text[:start] + text[text.index("</object>") + len("</object>") :]


def set_tag(tag: str, value: str) -> Callable[[str], str]:
    """The text of the first such tag."""

    def change(text: str) -> str:
        start, end = text.index(f"<{tag}>"), text.index(f"</{tag}>")
        return text[:start] + f"<{tag}>{value}" + text[end:]

    return change


def mixed_case(case: Case) -> None:
    voc(case)
    case.declare("val", CLASSES=["Red", "green", "blue"])
    for path in (case.root / "voc_val/Annotations").iterdir():
        path.write_text(path.read_text().replace("<name>red<", "<name>Red<"))


def xywh_as_corners(case: Case) -> None:
    """Writes x, y, width, height into the tags of corners."""
    voc(case)
    for path in (case.root / "voc_val/Annotations").iterdir():
        xml = ElementTree.parse(path)
        for box in xml.iter("bndbox"):
            for low, high in (("xmin", "xmax"), ("ymin", "ymax")):
                tag = box.find(high)
                assert tag is not None
                tag.text = str(float(tag.text or "") - float(box.findtext(low) or ""))
        xml.write(path)


def without_lists(case: Case) -> None:
    for name in ("train", "val"):
        shutil.rmtree(case.root / f"voc_{name}/ImageSets")
        case.declare(name, SPLIT=None)


def one_class_less(case: Case) -> None:
    without_classes(case)
    for path in (case.root / "voc_val/Annotations").iterdir():
        path.write_text(path.read_text().replace("blue", "green"))


def xml_in_capitals(case: Case) -> None:
    voc(case)
    for path in (case.root / "voc_val/Annotations").iterdir():
        path.rename(path.with_suffix(".XML"))


WITHOUT_ONE = in_xml(one_object)
ROWS: List[Row] = [
    Row("voc", voc, like=unchanged),
    Row("voc: second column", in_splits(lambda t: t.replace("\n", "  1\n")), like=unchanged),
    Row("voc: column -1", in_splits(lambda t: t.replace("\n", " -1\n")), like=unchanged),
    Row("voc: names with blanks", rename_to(lambda s: f"my photo {s}"), like=unchanged),
    Row("voc: names that end like a column", rename_to(lambda s: f"x 1 {s}"), like=unchanged),
    Row("voc: names with dots", rename_to(lambda s: f"a.b.{s}"), like=unchanged),
    Row("voc: names not ASCII", rename_to(lambda s: f"Straße 猫 {s}"), like=unchanged),
    Row(
        "voc: suffixes in the split", in_splits(lambda t: t.replace("\n", ".png\n")), like=unchanged
    ),
    Row("voc: .jpg in the split", in_splits(lambda t: t.replace("\n", ".jpg\n")), like=unchanged),
    Row(
        "voc: paths in the split",
        in_splits(lambda t: "".join(f"JPEGImages/{s}.png\n" for s in t.split())),
        like=unchanged,
    ),
    Row("voc: blank lines", in_splits(lambda t: "\n" + t.replace("\n", "\n\n")), like=unchanged),
    Row("voc: tabs", in_splits(lambda t: t.replace("\n", "\t1\n")), like=unchanged),
    Row("voc: images twice", in_splits(lambda t: t + t), like=unchanged, says=("twice",)),
    Row("voc: split with a mark", split_bytes(lambda t: t.encode("utf-8-sig")), like=unchanged),
    Row(
        "voc: Windows lines",
        split_bytes(lambda t: t.replace("\n", "\r\n").encode()),
        like=unchanged,
    ),
    Row("voc: UTF-16", split_bytes(lambda t: t.encode("utf-16")), refused=("all.txt", "UTF-8")),
    Row("voc: empty split", in_splits(lambda t: "\n"), refused=("all.txt lists no images",)),
    Row("voc: SPLIT a number", renamed_split, like=unchanged),
    Row("voc: SPLIT with suffix", declared(SPLIT="all.txt"), like=unchanged),
    Row("voc: SPLIT with folders", declared(SPLIT="ImageSets/Main/all.txt"), like=unchanged),
    Row("voc: x.XML", xml_in_capitals, like=unchanged),
    Row("voc: sizes for corners", xywh_as_corners, refused=("all.txt", "x, y, width, height")),
    Row(
        "voc: sizes for corners, no lists",
        chain(xywh_as_corners, without_lists),
        refused=("voc_", "x, y, width, height"),
    ),
    Row("voc: a class less", one_class_less, refused=("only in train: blue",)),
    Row(
        "voc: SPLIT unknown",
        declared(SPLIT="val"),
        refused=("val.txt does not exist", "set SPLIT to one of all"),
    ),
    Row("voc: SPLIT a list", declared(SPLIT=["all"]), refused=("SSOD.DATASETS.val", "SPLIT")),
    Row(
        "voc: ROOT unknown",
        declared(ROOT="nowhere"),
        refused=("nowhere", "does not exist", "relative to"),
    ),
    Row("voc: ROOT null", declared(ROOT=None), refused=("SSOD.DATASETS.val", "ROOT")),
    Row("voc: CLASSES a text", declared(CLASSES="red"), refused=("SSOD.DATASETS.val", "CLASSES")),
    Row(
        "voc: CLASSES twice",
        declared(CLASSES=["red", "red"]),
        refused=("SSOD.DATASETS.val", "CLASSES"),
    ),
    Row(
        "voc: CLASSES with null",
        declared(CLASSES=["red", None]),
        refused=("SSOD.DATASETS.val", "CLASSES"),
    ),
    Row("voc: CLASSES too few", declared(CLASSES=["red", "green"]), refused=("'blue'", "CLASSES")),
    Row(
        "voc: CLASSES in another order",
        declared(CLASSES=["green", "red", "blue"]),
        refused=("another order",),
    ),
    Row("voc: Red and red", mixed_case, refused=("Red", "red", "upper and lower case")),
    Row("voc: files of a Mac", mac_archive, like=without_classes),
    Row("voc: XML with a mark", in_xml(lambda t: "\ufeff" + t), like=unchanged),
    Row(
        "voc: XML in latin-1",
        in_xml(lambda t: '<?xml version="1.0" encoding="latin-1"?>' + t),
        like=unchanged,
    ),
    Row(
        "voc: unknown encoding",
        in_xml(lambda t: '<?xml version="1.0" encoding="u-9"?>' + t),
        refused=("001.xml",),
    ),
    Row("voc: XML empty", xml_bytes(b""), refused=("001.xml is not valid XML",)),
    Row("voc: XML cut off", in_xml(lambda t: t[:40]), refused=("001.xml is not valid XML",)),
    Row(
        "voc: XML is no text",
        xml_bytes(b"\x89PNG\r\n\x1a\n\x00"),
        refused=("001.xml is not valid XML",),
    ),
    Row(
        "voc: no XML",
        chain(voc, lambda c: os.remove(c.at("voc_val/Annotations/001.xml"))),
        refused=("001.xml does not exist",),
    ),
    Row(
        "voc: no image",
        chain(voc, lambda c: os.remove(c.at("voc_val/JPEGImages/001.png"))),
        refused=("001", "does not exist"),
    ),
    Row("voc: another root", xml_bytes(b"<x><y/></x>"), refused=("001.xml is no file of VOC",)),
    Row("voc: no name", in_xml(set_tag("name", "")), refused=("001.xml", "object 1 has no name")),
    Row(
        "voc: unknown class",
        in_xml(set_tag("name", "Cow")),
        refused=("001.xml", "'Cow'", "CLASSES"),
    ),
    Row(
        "voc: blank around names",
        in_xml(lambda t: t.replace("<name>", "<name> \n ")),
        like=unchanged,
    ),
    Row(
        "voc: sizes wrong",
        in_xml(
            lambda t: t.replace(
                "<annotation>", "<annotation><size><width>1</width><height>1</height></size>"
            )
        ),
        like=unchanged,
    ),
    Row(
        "voc: sizes empty",
        in_xml(lambda t: t.replace("<annotation>", "<annotation><size><width/><height/></size>")),
        like=unchanged,
    ),
    Row(
        "voc: no box", in_xml(lambda t: t.replace("bndbox>", "box>", 2)), like=WITHOUT_ONE, boxes=1
    ),
    Row("voc: text for a number", in_xml(set_tag("xmin", "left")), like=WITHOUT_ONE, boxes=1),
    Row("voc: empty number", in_xml(set_tag("ymax", "")), like=WITHOUT_ONE, boxes=1),
    Row("voc: NaN", in_xml(set_tag("xmax", "nan")), like=WITHOUT_ONE, boxes=1),
    Row("voc: infinite", in_xml(set_tag("xmax", "inf")), like=WITHOUT_ONE, boxes=1),
    Row("voc: corners swapped", in_xml(set_tag("xmax", "0")), like=WITHOUT_ONE, boxes=1),
    Row("voc: floats", in_xml(lambda t: t.replace("</xmin>", ".0</xmin>")), like=unchanged),
]
