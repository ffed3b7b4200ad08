"""Writes one small truth as each annotation tool lays it out.

A truth maps image paths below the data set to their boxes (class, x0, y0, x1, y1 in pixels), or to
None for an image that nobody has labelled. Every writer puts images and labels below `root` and
returns the entry of SSOD.DATASETS that reads it.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import yaml
from PIL import Image

Box = Tuple[str, float, float, float, float]
Truth = Mapping[str, Optional[List[Box]]]

CLASSES = ("cat", "dog")
HEIGHT, WIDTH = 80, 100
TRUTH: Dict[str, Optional[List[Box]]] = {
    "a.jpg": [("cat", 10, 20, 40, 60), ("dog", 50, 10, 90, 30)],
    "b.jpg": [("dog", 0, 0, 100, 80)],
    "c.jpg": [],  # somebody looked and found nothing
    "d.jpg": None,  # nobody looked
}


def save_image(path: Path, height: int = HEIGHT, width: int = WIDTH, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., len(str(path)) % 3] = 90
    Image.fromarray(pixels).save(path, **more)


def put_images(folder: Path, truth: Truth, source: Optional[Path] = None) -> None:
    for path in truth:
        if source is None:
            save_image(folder / path)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, folder / path)


def size_of(path: Path) -> Tuple[int, int]:
    """(width, height)"""
    with Image.open(path) as image:
        return image.size


def yolo_lines(boxes: Sequence[Box], size: Tuple[int, int], classes: Sequence[str]) -> str:
    width, height = size
    lines = []
    for label, x0, y0, x1, y1 in boxes:
        numbers = (
            (x0 + x1) / 2 / width,
            (y0 + y1) / 2 / height,
            (x1 - x0) / width,
            (y1 - y0) / height,
        )
        lines.append(" ".join([str(classes.index(label)), *(f"{n:.8f}" for n in numbers)]))
    return "".join(f"{line}\n" for line in lines)


def write_labels(
    images: Path, labels: Path, truth: Truth, classes: Sequence[str] = CLASSES
) -> None:
    for path, boxes in truth.items():
        if boxes is None:
            continue
        target = (labels / path).with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yolo_lines(boxes, size_of(images / path), classes))


def ultralytics(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "images" / "train", truth, source)
    write_labels(root / "images" / "train", root / "labels" / "train", truth, classes)
    names = dict(enumerate(classes))
    content = {
        "path": "/elsewhere/set",
        "train": "images/train",
        "val": "images/train",
        "names": names,
    }
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root / "data.yaml"), "SPLIT": "train"}


def roboflow_yolo(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "train" / "images", truth, source)
    write_labels(root / "train" / "images", root / "train" / "labels", truth, classes)
    content = {"train": "../train/images", "val": "../train/images", "nc": len(classes)}
    (root / "data.yaml").write_text(yaml.safe_dump({**content, "names": list(classes)}))
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root / "data.yaml"), "SPLIT": "train"}


def darknet(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    """As CVAT exports "YOLO 1.1", with the folder "data" of its paths left out."""
    folder = root / "obj_train_data"
    put_images(folder, truth, source)
    write_labels(folder, folder, truth, classes)
    (root / "obj.names").write_text("\n".join(classes) + "\n")
    (root / "train.txt").write_text("".join(f"data/obj_train_data/{p}\n" for p in truth))
    lines = ["classes = 2", "train = data/train.txt", "names = data/obj.names", "backup = backup/"]
    (root / "obj.data").write_text("\n".join(lines))
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root / "obj.data")}


def labelimg_yolo(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root, truth, source)
    write_labels(root, root, truth, classes)
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root)}


def label_studio_yolo(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "images", truth, source)
    write_labels(root / "images", root / "labels", truth, classes)
    (root / "classes.txt").write_text("\n".join(classes))
    (root / "notes.json").write_text(json.dumps({"categories": []}))
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root)}


def cvat(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "images", truth, source)
    lines = ["<annotations><version>1.1</version><meta><task><labels>"]
    lines += [f"<label><name>{name}</name><type>any</type></label>" for name in classes]
    lines.append("</labels></task></meta>")
    for number, (path, boxes) in enumerate(truth.items()):
        width, height = size_of(root / "images" / path)
        lines.append(f'<image id="{number}" name="{path}" width="{width}" height="{height}">')
        lines += [
            f'<box label="{k}" occluded="0" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}" z_order="0"></box>'
            for k, a, b, c, d in boxes or ()
        ]
        lines.append("</image>")
    (root / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]))
    return {
        "FORMAT": "cvat",
        "ANNOTATIONS": str(root / "annotations.xml"),
        "IMAGES": str(root / "images"),
    }


def labelme(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root, truth, source)
    for path, boxes in truth.items():
        if boxes is None:
            continue
        width, height = size_of(root / path)
        shapes = [
            {"label": k, "points": [[a, b], [c, d]], "shape_type": "rectangle", "flags": {}}
            for k, a, b, c, d in boxes
        ]
        content = {
            "version": "5.4.1",
            "shapes": shapes,
            "imagePath": os.path.basename(path),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        (root / path).with_suffix(".json").write_text(json.dumps(content))
    return {"FORMAT": "labelme", "ANNOTATIONS": str(root)}


def region(box: Box, size: Tuple[int, int], kind: str = "rectanglelabels") -> Dict[str, Any]:
    label, x0, y0, x1, y1 = box
    width, height = size
    return {
        "x": 100 * x0 / width,
        "y": 100 * y0 / height,
        "width": 100 * (x1 - x0) / width,
        "height": 100 * (y1 - y0) / height,
        "rotation": 0,
        kind: [label],
    }


def label_studio(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "images", truth, source)
    tasks = []
    for number, (path, boxes) in enumerate(truth.items()):
        size = size_of(root / "images" / path)
        result = [
            {
                "id": f"r{i}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": size[0],
                "original_height": size[1],
                "value": region(box, size),
            }
            for i, box in enumerate(boxes or ())
        ]
        done = [] if boxes is None else [{"id": number, "result": result, "was_cancelled": False}]
        upload = f"/data/upload/1/{number:08x}-{path.replace('/', '_')}"
        local = f"/data/local-files/?d=images/{path.replace(' ', '%20')}"
        image = upload if "/" not in path else local
        tasks.append({"id": number + 1, "data": {"image": image}, "annotations": done})
    (root / "project-1.json").write_text(json.dumps(tasks))
    return {
        "FORMAT": "label_studio",
        "ANNOTATIONS": str(root / "project-1.json"),
        "IMAGES": str(root / "images"),
    }


def accept_predictions(path: Path) -> None:
    """The export of Label Studio after an annotator has submitted each prediction unchanged."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = [{"result": p["result"]} for p in task["predictions"]]
    path.write_text(json.dumps(tasks))


def table(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    """As Roboflow exports it; an image without objects has a line without a box."""
    put_images(root, truth, source)
    with open(root / "_annotations.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
        for path, boxes in truth.items():
            size = size_of(root / path)
            if boxes == []:
                writer.writerow([path, *size, "", "", "", "", ""])
            for k, *corners in boxes or ():
                writer.writerow([path, *size, k, *corners])
    return {"FORMAT": "csv", "ANNOTATIONS": str(root / "_annotations.csv")}


def voc_xml(boxes: Sequence[Box], file_name: str, size: Tuple[int, int]) -> str:
    """VOC counts from 1, so that 1 is added to the first corner."""
    objects = "".join(
        f"<object><name>{k}</name><pose>Unspecified</pose><bndbox><xmin>{a + 1}</xmin><ymin>{b + 1}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for k, a, b, c, d in boxes
    )
    width, height = size
    return (
        f"<annotation><folder>x</folder><filename>{file_name}</filename><path>C:\\photos\\{file_name}</path>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def labelimg_voc(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root, truth, source)
    for path, boxes in truth.items():
        if boxes is not None:
            text = voc_xml(boxes, os.path.basename(path), size_of(root / path))
            (root / path).with_suffix(".xml").write_text(text)
    return {"FORMAT": "voc", "ROOT": str(root)}


def voc_two_folders(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "images", truth, source)
    for path, boxes in truth.items():
        if boxes is not None:
            target = (root / "annotations" / path).with_suffix(".xml")
            target.parent.mkdir(parents=True, exist_ok=True)
            size = size_of(root / "images" / path)
            target.write_text(voc_xml(boxes, os.path.basename(path), size))
    return {"FORMAT": "voc", "ROOT": str(root)}


def coco(
    root: Path, truth: Truth, source: Optional[Path] = None, classes: Sequence[str] = CLASSES
) -> Dict[str, Any]:
    put_images(root / "images", truth, source)
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for path, boxes in truth.items():
        width, height = size_of(root / "images" / path)
        images.append({"id": len(images) + 1, "file_name": path, "width": width, "height": height})
        for k, a, b, c, d in boxes or ():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": classes.index(k) + 1,
                    "bbox": [a, b, c - a, d - b],
                    "area": (c - a) * (d - b),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return {
        "FORMAT": "coco",
        "ANNOTATIONS": str(root / "instances.json"),
        "IMAGES": str(root / "images"),
    }


Writer = Callable[..., Dict[str, Any]]
# The labels that this project reads through `AnnotatedSet`, then COCO.
ANNOTATED: Tuple[Writer, ...] = (
    ultralytics,
    roboflow_yolo,
    darknet,
    labelimg_yolo,
    label_studio_yolo,
    cvat,
    labelme,
    label_studio,
    table,
    labelimg_voc,
    voc_two_folders,
)
WRITERS: Tuple[Writer, ...] = (*ANNOTATED, coco)
