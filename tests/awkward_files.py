"""Reading small sets of several formats, whose annotations a test writes by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import yaml

from layouts import save_image
from ssod.data.declarations import parse_declaration
from ssod.errors import UserError

Found = Dict[str, List[Tuple[Any, ...]]]


def read(node: Dict[str, Any]) -> Found:
    """Image name -> its boxes as (class, x0, y0, x1, y1), rounded."""
    dataset = parse_declaration("mine", node)
    classes = dataset.classes()
    return {
        Path(record["file_name"]).name: [
            (classes[a["category_id"]], *(round(float(v), 1) for v in a["bbox"]))
            for a in record["annotations"]
        ]
        for record in dataset.labeled_records()
    }


def problem(node: Dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read(node)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def yolo(root: Path, *lines: str, names: Any = ("cat", "dog"), **more: Any) -> Dict[str, Any]:
    save_image(root / "images" / "train" / "a.jpg")
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    names = list(names) if isinstance(names, tuple) else names
    content = {"train": "images/train", "val": "images/val", "names": names, **more}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return {"FORMAT": "yolo", "ANNOTATIONS": str(root / "data.yaml")}


def labelme_file(root: Path, *shapes: Any, **more: Any) -> Dict[str, Any]:
    save_image(root / "a.jpg")
    content = {"shapes": list(shapes), "imagePath": "a.jpg", **more}
    (root / "a.json").write_text(json.dumps(content))
    return {"FORMAT": "labelme", "ANNOTATIONS": str(root)}


def shape(points: Any, kind: Any = "rectangle", label: Any = "cat") -> Dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def cvat_file(
    root: Path, shapes: str, labels: str = "<name>cat</name>", **more: str
) -> Dict[str, Any]:
    save_image(root / "a.jpg")
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><labels><label>{labels}</label></labels></task></meta>"
        f'<image id="0" name="a.jpg" width="100" height="80"{attributes}>{shapes}</image></annotations>'
    )
    return {"FORMAT": "cvat", "ANNOTATIONS": str(root / "annotations.xml")}


def studio(root: Path, *tasks: Any) -> Dict[str, Any]:
    save_image(root / "a.jpg")
    (root / "export.json").write_text(json.dumps(list(tasks)))
    return {"FORMAT": "label_studio", "ANNOTATIONS": str(root / "export.json")}


def task(*values: Any, image: str = "a.jpg", **more: Any) -> Dict[str, Any]:
    result = [{"type": "rectanglelabels", "value": value} for value in values]
    return {"data": {"image": image}, "annotations": [{"result": result, **more}]}
