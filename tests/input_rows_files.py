"""VOC layouts, folders, images, paths and sets that others registered, as users have them.

See `input_case.Row`.
"""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Callable, Dict, List

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

from input_case import Case, Row, unchanged
from tiny import CLASSES

Change = Callable[[Case], Any]


def chain(*changes: Change) -> Change:
    def run(case: Case) -> None:
        for change in changes:
            change(case)

    return run


# ---------------------------------------------------------------- Pascal VOC

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
VOC_ROWS = [
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


# ---------------------------------------------------------------- images


def image_bytes(path: str, data: Callable[[bytes], bytes]) -> Change:
    def run(case: Case) -> None:
        file = case.root / path
        file.write_bytes(data(file.read_bytes()))

    return run


def without_val_image(case: Case) -> None:
    case.val["images"] = [i for i in case.val["images"] if i["id"] != 2]
    case.val["annotations"] = [a for a in case.val["annotations"] if a["image_id"] != 2]


def all_images(save: Callable[[np.ndarray, Path], None], suffix: str = ".png") -> Change:
    """Saves every image of the training and the test set anew: `save(BGR, path)`."""

    def run(case: Case) -> None:
        for name in ("train", "val"):
            for path in sorted((case.root / name).iterdir()):
                image = cv2.imread(str(path))
                path.unlink()
                save(image, path.with_suffix(suffix))
            for image in getattr(case, name)["images"]:
                image["file_name"] = str(Path(image["file_name"]).with_suffix(suffix))

    return run


def grey(image: np.ndarray) -> np.ndarray:
    return image.max(axis=2)


def save_tiff(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array).save(path)


def one_val_image(save: Callable[[np.ndarray, Path], None], suffix: str = ".tif") -> Change:
    def run(case: Case) -> None:
        path = case.root / "val" / "001.png"
        save(cv2.imread(str(path)), path.with_suffix(suffix))
        case.val["images"][1]["file_name"] = "001" + suffix

    return run


def as_rgba(image: np.ndarray, path: Path) -> None:
    Image.fromarray(np.dstack([image[:, :, ::-1], np.full(image.shape[:2], 9, np.uint8)])).save(
        path
    )


def as_palette(image: np.ndarray, path: Path) -> None:
    Image.fromarray(grey(image)).convert("P").save(path)


def save_32_bits(case: Case, image: Dict[str, Any]) -> None:
    image["file_name"] = Path(image["file_name"]).stem + ".tif"
    save_tiff(np.zeros((64, 64), np.int32), case.root / "val" / image["file_name"])


def damage_all(name: str) -> Change:
    def run(case: Case) -> None:
        for path in (case.root / name).iterdir():
            path.write_bytes(path.read_bytes()[:60])

    return run


GREY = all_images(lambda image, path: cv2.imwrite(str(path), grey(image)))
VAL = "val/001.png"
SKIPPED = {"like": without_val_image, "images": 1, "says": ("001", "left out of the evaluation")}
IMAGE_ROWS = [
    Row("image: cut off", image_bytes(VAL, lambda b: b[:200]), **SKIPPED),
    Row("image: empty", image_bytes(VAL, lambda b: b""), **SKIPPED),
    Row("image: a web page", image_bytes(VAL, lambda b: b"<html>404</html>"), **SKIPPED),
    Row(
        "image: Git LFS",
        image_bytes(VAL, lambda b: b"version https://git-lfs.github.com/spec/v1\n"),
        **SKIPPED,
    ),
    Row(
        "image: a folder",
        chain(lambda c: os.remove(c.at(VAL)), lambda c: os.mkdir(c.at(VAL))),
        **SKIPPED,
    ),
    Row(
        "image: other size",
        one_val_image(lambda i, p: cv2.imwrite(str(p), i[:32]), ".png"),
        **SKIPPED,
    ),
    Row(
        "image: sides swapped", lambda c: c.val["images"][1].update(height=128, width=64), **SKIPPED
    ),
    Row(
        "image: floats to 255",
        one_val_image(lambda i, p: save_tiff(grey(i).astype(np.float32), p)),
        **SKIPPED,
    ),
    Row(
        "image: float NaN",
        one_val_image(lambda i, p: save_tiff(np.full((64, 64), np.nan, np.float32), p)),
        **SKIPPED,
    ),
    Row(
        "image: 32-bit",
        one_val_image(lambda i, p: save_tiff(grey(i).astype(np.int32), p)),
        **SKIPPED,
    ),
    Row(
        "images: all tests damaged", damage_all("val"), refused=("Not one of the 5 images of val",)
    ),
    Row(
        "images: all tests of 32 bits",
        lambda c: [save_32_bits(c, image) for image in c.val["images"]],
        refused=("Not one of the 5 images of val", "32-bit"),
    ),
    Row(
        "images: all training damaged", damage_all("train"), refused=("train/00", "cannot be read")
    ),
    Row("images: one training damaged", image_bytes("train/001.png", lambda b: b[:200]), boxes=-1),
    Row("images: grey", GREY),
    Row(
        "images: 16 bits",
        all_images(lambda i, p: cv2.imwrite(str(p), grey(i).astype(np.uint16) * 257)),
        like=GREY,
    ),
    Row(
        "images: 16-bit colour",
        all_images(lambda i, p: cv2.imwrite(str(p), i.astype(np.uint16) * 257)),
        like=unchanged,
    ),
    Row(
        "images: 16-bit TIFF",
        all_images(lambda i, p: save_tiff(grey(i).astype(np.uint16) * 257, p), ".tif"),
        like=GREY,
    ),
    Row(
        "images: floats",
        all_images(lambda i, p: save_tiff(grey(i).astype(np.float32) / 255, p), ".tif"),
        like=GREY,
    ),
    Row("images: transparent", all_images(as_rgba), like=unchanged),
    Row("images: palette", all_images(as_palette)),
    Row(
        "images: wrong suffix",
        all_images(lambda i, p: Image.fromarray(i[:, :, ::-1]).save(p, "bmp"), ".jpg"),
        like=unchanged,
    ),
]


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


def declare(which: str, **keys: Any) -> Change:
    return lambda case: case.declare(which, **keys)


def images_at(find: Callable[[Case], str]) -> Change:
    return lambda case: case.declare("val", IMAGES=find(case))


def annotations_folder(case: Case) -> None:
    case.declare("val", ANNOTATIONS=case.at("val"))


PATH_ROWS = [
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


# ---------------------------------------------------------------- unlabelled images


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
FOLDER_ROWS = [
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


# ---------------------------------------------------------------- sets that others registered


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
REGISTERED_ROWS = [
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

ROWS: List[Row] = [*VOC_ROWS, *IMAGE_ROWS, *PATH_ROWS, *FOLDER_ROWS, *REGISTERED_ROWS]
