"""Declared image sets as COCO dicts that images are moved between."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from ssod.data.coco import CocoSet
from ssod.data.coco_content import read_coco
from ssod.data.declarations import DeclaredSet, parse_declarations
from ssod.data.splits import verified_hash
from ssod.errors import UserError

Box = Tuple[str, Sequence[float], bool]  # class, XYXY, crowd


@dataclass
class SplitSet:
    """A set and its content, which may be changed; everything that a COCO file holds is kept.

    Attributes:
        file: the COCO file that holds it; None where it has another format.
        root: the folder that file names are relative to. is_moved: whether that is another one than
            the declared.
    """

    name: str
    node: Mapping[str, Any]
    content: Dict[str, Any]
    root: str
    file: Optional[str] = None
    is_moved: bool = False

    def __post_init__(self) -> None:
        self._taken = {image["id"] for image in self.content["images"]}
        self._last_image = _highest_id(self.content["images"])
        self._last_annotation = _highest_id(self.content.get("annotations", []))

    def full_path(self, image: Mapping[str, Any]) -> str:
        return os.path.join(self.root, image["file_name"])

    def box_counts(self, classes: Sequence[str]) -> Counter:
        """The boxes of each class, crowds left out."""
        names = {c["id"]: c["name"] for c in self.content["categories"]}
        rows = self.content["annotations"]
        return Counter(names[a["category_id"]] for a in rows if not a.get("iscrowd"))

    def widen(self, files: Sequence[str]) -> None:
        """Makes the root a folder above all of these files too."""
        root = os.path.abspath(self.root)
        above = os.path.commonpath([root, *(os.path.dirname(os.path.abspath(f)) for f in files)])
        if above == root:
            return
        for image in self.content["images"]:
            image["file_name"] = _relative(self.full_path(image), above)
        near = os.path.relpath(above)
        self.root, self.is_moved = above if near.startswith("..") else near, True

    def add(
        self,
        image: Mapping[str, Any],
        file: str,
        boxes: Sequence[Box],
        size: Optional[Tuple[int, int]],
    ) -> None:
        """Adds an image of another set with its labels.

        Args:
            image: as the other set has it; its id is kept where it is free. file: its path.
            size: (height, width), where known.
        """
        number = image["id"]
        if number in self._taken or type(number) is not int:
            number = self._last_image + 1
        self._taken.add(number)
        self._last_image = max(self._last_image, number)
        new = {**image, "id": number, "file_name": _relative(file, self.root)}
        if size:
            new["height"], new["width"] = size
        self.content["images"].append(new)
        ids = {c["name"]: c["id"] for c in self.content["categories"]}
        for name, (x0, y0, x1, y1), iscrowd in boxes:
            self._last_annotation += 1
            self.content["annotations"].append(
                {
                    "id": self._last_annotation,
                    "image_id": number,
                    "category_id": ids[name],
                    "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "area": round((x1 - x0) * (y1 - y0), 3),
                    "iscrowd": int(iscrowd),
                }
            )

    def remove(self, images: Set[Any]) -> None:
        """Takes images out, by id, with their annotations."""
        content = self.content
        content["images"] = [i for i in content["images"] if i["id"] not in images]
        rows = content.get("annotations", [])
        content["annotations"] = [a for a in rows if a.get("image_id") not in images]

    def declaration(self, file: str) -> str:
        """The entry of SSOD.DATASETS that reads the set from a COCO file, as YAML."""
        kept = {k: self.node[k] for k in ("TRUTH", "GROUPS") if self.node.get(k)}
        # As the config writes it, where that is still right.
        images = self.root if self.is_moved else self.node.get("IMAGES") or self.root
        node = {"FORMAT": "coco", "ANNOTATIONS": file, "IMAGES": images, **kept}
        return (
            "{"
            + ", ".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in node.items())
            + "}"
        )


def _relative(path: str, root: str) -> str:
    return os.path.relpath(os.path.abspath(path), os.path.abspath(root)).replace(os.sep, "/")


def _highest_id(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((row["id"] for row in rows if type(row.get("id")) is int), default=0)


def open_set(cfg: CfgNode, name: str) -> SplitSet:
    """The content of a declared set.

    Raises:
        UserError: it is not declared in SSOD.DATASETS, or its file was edited after it was made.
    """
    declared = parse_declarations(cfg)
    if name not in declared:
        raise UserError(
            f"{name} is not declared in SSOD.DATASETS: only declared sets can be given images."
        )
    dataset, node = declared[name], cfg.SSOD.DATASETS[name]
    if isinstance(dataset, CocoSet):
        verified_hash(dataset.annotations)
        labelled = name in cfg.DATASETS.TRAIN
        keys = ("images", "annotations", "categories") if labelled else ("images",)
        content = read_coco(dataset.annotations, keys)
        return SplitSet(name, node, content, dataset.images, dataset.annotations)
    root = str(dataset.metadata()["image_root"])
    return SplitSet(name, node, _content(dataset, root, name in cfg.DATASETS.TRAIN), root)


def _content(dataset: DeclaredSet, root: str, labelled: bool) -> Dict[str, Any]:
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for record in dataset.labeled_records() if labelled else dataset.unlabeled_records():
        image = {"id": record["image_id"], "file_name": _relative(record["file_name"], root)}
        # A size that is not known yet is not read: a folder may hold very many images.
        image.update({key: record[key] for key in ("height", "width") if key in record})
        images.append(image)
        for found in record.get("annotations", ()):
            mode = BoxMode(found["bbox_mode"])
            x, y, w, h = BoxMode.convert(list(found["bbox"]), mode, BoxMode.XYWH_ABS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": found["category_id"] + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(found.get("iscrowd", 0)),
                }
            )
    names = dataset.classes() if labelled else []
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}
