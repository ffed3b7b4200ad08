"""Labels for annotation tools: read back by this project's readers, and of each tool's own form."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Dict, List, Tuple

import fastjsonschema
import pytest
import yaml

from layouts import accept_predictions, save_image
from ssod.data.declarations import parse_declaration
from ssod.data.formats.find import find_datasets
from ssod.data.formats.writing.labels import LabelSet, ScoredBox, ScoredImage
from ssod.data.formats.writing.registry import WRITERS, write_labels_for
from ssod.data.formats.writing.voc import whole_pixels
from ssod.errors import UserError

# Names that need escaping in XML, JSON, YAML or a URL.
CLASSES = ["big cat", "dog & <co>", "Kühe"]
HEIGHT, WIDTH = 80, 100
BOXES = {
    "a.jpg": [(0, (10.25, 20.5, 40.75, 60.0), 0.912345), (2, (50.0, 10.0, 90.4, 30.6), 0.5)],
    "sub dir/b 1.jpg": [(1, (0.0, 0.0, 100.0, 80.0), 0.25)],
    "sub dir/größe.png": [(1, (3.2, 4.1, 4.1, 79.9), 1.0)],  # not one pixel wide
    "none.jpg": [],
}
TOLERANCE = {"voc": 0.5, "yolo": 1e-3, "cvat": 0.006}
Found = Dict[str, List[Tuple[str, List[float]]]]


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    images = []
    for path, boxes in BOXES.items():
        save_image(tmp_path / "photos" / path)
        rows = [ScoredBox(label, corners, score) for label, corners, score in boxes]
        images.append(ScoredImage(path, (HEIGHT, WIDTH), rows))
    return LabelSet(str(tmp_path / "photos"), CLASSES, images, "model.pth")


def read(folder: Path) -> Found:
    """The labels that this project reads in the folder: image -> (class, corners)."""
    (found,) = find_datasets(str(folder))[:1]
    dataset = parse_declaration("mine", found.node)
    names = dataset.classes()
    rows: Found = {}
    for record in dataset.labeled_records():
        path = os.path.relpath(os.path.realpath(record["file_name"]), folder.parent / "photos")
        boxes = []
        for a in record["annotations"]:
            x0, y0, x1, y1 = a["bbox"]
            corners = [x0, y0, x0 + x1, y0 + y1] if a["bbox_mode"] == 1 else [x0, y0, x1, y1]
            boxes.append((names[a["category_id"]], corners))
        if boxes:
            rows[path] = boxes
    return rows


@pytest.mark.parametrize("tool", WRITERS)
def test_round_trip(tool: str, labels: LabelSet, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_labels_for(tool, labels, str(folder))
    if tool == "labelstudio":
        with pytest.raises(UserError, match="no labelled image"):
            read(folder)  # predictions are no labels
        accept_predictions(folder / "tasks.json")
    found = read(folder)
    assert set(found) == {path for path, boxes in BOXES.items() if boxes}
    for path, boxes in found.items():
        assert [name for name, _ in boxes] == [CLASSES[row[0]] for row in BOXES[path]]
        for (_, corners), (_, expected, _) in zip(boxes, BOXES[path]):
            if tool == "voc" and path.endswith("größe.png"):  # two pixels at least
                assert corners == [3, 4, 5, 80]
                continue
            assert corners == pytest.approx(expected, abs=TOLERANCE.get(tool, 0.002))


@pytest.mark.parametrize("tool", WRITERS)
def test_the_folder_is_complete(tool: str, labels: LabelSet, tmp_path: Path) -> None:
    """Every image is in it once, also those without boxes, which have no label file."""
    folder = tmp_path / "out"
    write_labels_for(tool, labels, str(folder))
    images = [p for p in folder.rglob("*") if p.suffix in (".jpg", ".png")]
    assert sorted(p.name for p in images) == ["a.jpg", "b 1.jpg", "größe.png", "none.jpg"]
    assert all(p.read_bytes() for p in images)
    assert not [p for p in folder.rglob("none.*") if p.suffix != ".jpg"]


@pytest.mark.parametrize("tool", WRITERS)
def test_corrected_labels_are_not_overwritten(tool: str, labels: LabelSet, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_labels_for(tool, labels, str(tmp_path / "out"))  # an empty folder is fine
    with pytest.raises(UserError, match="may hold corrected labels"):
        write_labels_for(tool, labels, str(tmp_path / "out"))
    with pytest.raises(UserError, match="is a file"):
        write_labels_for(tool, labels, str(tmp_path / "photos" / "a.jpg"))


@pytest.mark.parametrize("tool", ["yolo", "voc", "labelme"])
def test_two_images_of_one_label_file(tool: str, labels: LabelSet, tmp_path: Path) -> None:
    labels.images.append(ScoredImage("a.png", (HEIGHT, WIDTH)))
    with pytest.raises(UserError, match="Several images would have the label file a"):
        write_labels_for(tool, labels, str(tmp_path / "out"))


def test_names_that_no_file_can_hold() -> None:
    with pytest.raises(UserError, match="rename it"):
        LabelSet("", ["a"], [ScoredImage("x\ny.jpg", (1, 1))])


@pytest.mark.parametrize(
    "low, high, size, expected",
    [
        (0, 100, 100, (1, 100)),
        (9.6, 20.4, 100, (11, 20)),
        (99.2, 100, 100, (99, 100)),
        (5, 5.2, 9, (6, 7)),
    ],
)
def test_whole_pixels(low: float, high: float, size: int, expected: Tuple[int, int]) -> None:
    assert whole_pixels(low, high, size) == expected


# ---- Each tool's own form, as its documentation and its importer have it.

NUMBER, TEXT = {"type": "number"}, {"type": "string"}


def strict(**properties: Any) -> Dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def rows(item: Dict[str, Any]) -> Dict[str, Any]:
    return {"type": "array", "items": item}


PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
LABEL_STUDIO = rows(
    strict(
        data=strict(image={"type": "string", "pattern": "^/data/local-files/\\?d=images/[^ ]+$"}),
        predictions=rows(
            strict(
                model_version=TEXT,
                score=NUMBER,
                result=rows(
                    strict(
                        id=TEXT,
                        type={"const": "rectanglelabels"},
                        from_name=TEXT,
                        to_name=TEXT,
                        original_width={"type": "integer"},
                        original_height={"type": "integer"},
                        image_rotation={"const": 0},
                        value=strict(
                            x=PERCENT,
                            y=PERCENT,
                            width=PERCENT,
                            height=PERCENT,
                            rotation={"const": 0},
                            rectanglelabels={**rows(TEXT), "minItems": 1, "maxItems": 1},
                        ),
                        score={"type": "number", "minimum": 0, "maximum": 1},
                    )
                ),
            )
        ),
    )
)
# Its loader checks these types; "score" is one of the keys that it keeps as they are.
LABELME = strict(
    version=TEXT,
    flags={"type": "object"},
    shapes=rows(
        strict(
            label=TEXT,
            points={**rows({**rows(NUMBER), "minItems": 2, "maxItems": 2}), "minItems": 2},
            group_id={"type": ["integer", "null"]},
            description=TEXT,
            shape_type={"const": "rectangle"},
            flags={"type": "object"},
            mask={"type": "null"},
            score=NUMBER,
        )
    ),
    imagePath=TEXT,
    imageData={"type": "null"},
    imageHeight={"type": "integer"},
    imageWidth={"type": "integer"},
)
ID = {"type": "integer", "minimum": 1}
COCO = strict(
    info={"type": "object"},
    images=rows(strict(id=ID, file_name=TEXT, height=ID, width=ID)),
    annotations=rows(
        strict(
            id=ID,
            image_id=ID,
            category_id=ID,
            bbox={**rows(NUMBER), "minItems": 4, "maxItems": 4},
            area=NUMBER,
            iscrowd={"const": 0},
            score=NUMBER,
        )
    ),
    categories=rows(strict(id=ID, name=TEXT)),
)
CVAT_LABELS = rows(
    strict(
        name=TEXT,
        type={"const": "rectangle"},
        color={"type": "string", "pattern": "^#[0-9a-f]{6}$"},
        attributes=rows(
            strict(
                name=TEXT,
                mutable={"type": "boolean"},
                input_type={"enum": ["select", "radio", "checkbox", "number", "text"]},
                default_value=TEXT,
                values=rows(TEXT),
            )
        ),
    )
)


@pytest.mark.parametrize(
    "tool, file, schema",
    [
        ("labelstudio", "tasks.json", LABEL_STUDIO),
        ("labelme", "sub dir/b 1.json", LABELME),
        ("coco", "annotations.json", COCO),
        ("cvat", "labels.json", CVAT_LABELS),
    ],
)
def test_json_of_the_tools(
    tool: str, file: str, schema: Dict[str, Any], labels: LabelSet, tmp_path: Path
) -> None:
    write_labels_for(tool, labels, str(tmp_path / "out"))
    fastjsonschema.validate(schema, json.loads((tmp_path / "out" / file).read_text()))


def test_label_studio_interface_names_what_the_tasks_name(labels: LabelSet, tmp_path: Path) -> None:
    write_labels_for("labelstudio", labels, str(tmp_path / "out"), url="https://host/x/")
    view = ElementTree.parse(tmp_path / "out" / "label_config.xml").getroot()
    (control,) = view.iter("RectangleLabels")
    (image,) = view.iter("Image")
    assert [node.get("value") for node in control] == CLASSES
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    (result,) = tasks[1]["predictions"][0]["result"]
    assert (result["from_name"], result["to_name"]) == (control.get("name"), image.get("name"))
    assert image.get("value") == "$image" and "image" in tasks[1]["data"]
    assert tasks[1]["data"]["image"] == "https://host/x/sub%20dir/b%201.jpg"
    assert tasks[3]["predictions"] == []


def test_cvat_xml(labels: LabelSet, tmp_path: Path) -> None:
    write_labels_for("cvat", labels, str(tmp_path / "out"))
    root = ElementTree.parse(tmp_path / "out" / "annotations.xml").getroot()
    assert [node.tag for node in root][:2] == ["version", "meta"]
    assert root.findtext("version") == "1.1"
    assert [n.text for n in root.iterfind("./meta/task/labels/label/name")] == CLASSES
    images = root.findall("image")
    assert [n.get("name") for n in images] == list(BOXES)  # also those without boxes
    assert [n.get("id") for n in images] == ["0", "1", "2", "3"]
    assert {(n.get("width"), n.get("height")) for n in images} == {("100", "80")}
    box = images[0].findall("box")[0]
    assert set(box.attrib) == {
        *("label", "source", "occluded", "xtl", "ytl", "xbr", "ybr", "z_order"),
    }
    (score,) = box.findall("attribute")
    assert (score.get("name"), score.text) == ("score", "0.9123")
    # The task has the attribute; CVAT drops values of attributes that it does not have.
    names = root.iterfind("./meta/task/labels/label/attributes/attribute/name")
    assert [node.text for node in names] == ["score"] * 3


def test_yolo_lines_have_five_numbers(labels: LabelSet, tmp_path: Path) -> None:
    """Ultralytics refuses a file with a sixth number."""
    folder = tmp_path / "out"
    write_labels_for("yolo", labels, str(folder))
    described = yaml.safe_load((folder / "data.yaml").read_text())
    assert described == {"train": "images", "val": "images", "names": dict(enumerate(CLASSES))}
    lines = (folder / "labels" / "a.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5, 5]
    assert lines[0].split()[1:] == ["0.255000", "0.503125", "0.305000", "0.493750"]
    assert (folder / "classes.txt").read_text().splitlines() == CLASSES


def test_voc_xml(labels: LabelSet, tmp_path: Path) -> None:
    write_labels_for("voc", labels, str(tmp_path / "out"))
    root = ElementTree.parse(tmp_path / "out" / "Annotations" / "a.xml").getroot()
    assert [node.tag for node in root] == [
        *("folder", "filename", "size", "segmented", "object", "object"),
    ]
    assert [node.tag for node in root.findall("object")[0]] == [
        *("name", "pose", "truncated", "difficult", "bndbox", "attributes"),
    ]
    assert [n.text for n in root.findall("object")[0].find("bndbox") or ()] == [
        *("11", "21", "41", "60"),
    ]
    assert root.findtext("object/attributes/attribute/value") == "0.9123"


def test_boxes_without_score_are_human(labels: LabelSet, tmp_path: Path) -> None:
    """The simulated annotator's: annotations in Label Studio, and no score anywhere."""
    for image in labels.images:
        image.boxes = [ScoredBox(box.label, box.corners) for box in image.boxes]
    for tool in WRITERS:
        write_labels_for(tool, labels, str(tmp_path / tool))
        assert set(read(tmp_path / tool)) == {path for path, boxes in BOXES.items() if boxes}
        for path in (tmp_path / tool).rglob("*.json"):
            if path.name != "labels.json":
                assert '"score"' not in path.read_text(), path
