"""The labels of unlabelled images, for analysis only. Only evaluation hooks and reports may import
this module.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

from ssod.data.boxes import box_problem
from ssod.data.coco_content import category_map, corners, read_coco
from ssod.data.masks import Rle, read_mask
from ssod.errors import UserError


class ImageTruth(NamedTuple):
    """`boxes`: (T, 4) XYXY in pixels of the image file.

    `classes`: (T,) indices into the training classes.
    """

    boxes: Tensor
    classes: Tensor


def read_truth(
    path: str,
    class_names: Sequence[str],
    masks: Optional[Dict[str, List[Optional[Rle]]]] = None,
) -> Dict[str, ImageTruth]:
    """The boxes of a COCO file, by the image's file name in that file. Classes are matched by name.

    Args:
        masks: a dict that gets the masks of the same boxes by the same names. A box without a
            usable mask gets None.

    Crowds, boxes without area and boxes of classes that training does not have are left out.

    Raises:
        UserError: the file is missing, is not a COCO file, or has none of the classes.
    """
    content = read_coco(path, ("images", "annotations", "categories"))
    known = {name: index for index, name in enumerate(class_names)}
    categories = {
        category: known[name]
        for category, (_, name) in category_map(path, content["categories"]).items()
        if name in known
    }
    if not categories:
        raise UserError(
            f"{path} has none of the training classes ({', '.join(list(known)[:5])}, ...): correct TRUTH or remove it."
        )
    rows: Dict[Any, List[List[float]]] = {image["id"]: [] for image in content["images"]}
    outlines: Dict[Any, List[Any]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        label = categories.get(annotation["category_id"])
        own = rows.get(annotation["image_id"])
        if label is None or own is None or annotation.get("iscrowd"):
            continue
        box = corners(annotation.get("bbox"))
        if not box_problem(box, None, None):
            own.append([*box, label])
            outlines[annotation["image_id"]].append(annotation.get("segmentation"))
    truth = {}
    for image in content["images"]:
        table = torch.tensor(rows[image["id"]], dtype=torch.float32).reshape(-1, 5)
        name = os.path.normpath(image["file_name"].replace("\\", "/"))
        truth[name] = ImageTruth(table[:, :4], table[:, 4].long())
        if masks is not None:
            size = image.get("height"), image.get("width")
            pairs = zip(outlines[image["id"]], rows[image["id"]])
            masks[name] = [read_mask(found, box, *size)[0] for found, box in pairs]
    return truth


class HiddenTruth:
    """Finds the truth of dataset records.

    Args:
        datasets: the names of unlabelled sets. Sets without TRUTH have no truth. class_names:
            classes of the training set. masks: whether masks are read too.
    """

    def __init__(
        self, datasets: Sequence[str], class_names: Sequence[str], *, masks: bool = False
    ) -> None:
        self._masks: Dict[str, Dict[str, List[Optional[Rle]]]] = {}
        self._truth: Dict[str, Dict[str, ImageTruth]] = {}
        self._roots: Dict[str, str] = {}
        for name in datasets:
            metadata = MetadataCatalog.get(name)
            if metadata.get("truth_file"):
                own: Optional[Dict[str, List[Optional[Rle]]]] = {} if masks else None
                self._truth[name] = read_truth(metadata.truth_file, class_names, own)
                self._masks[name] = own or {}
                self._roots[name] = metadata.image_root

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raises `UserError` if a truth file names none of its set's images."""
        for name in self._truth:
            own = [record for record in records if record["dataset_name"] == name]
            if own and not any(self(record) for record in own):
                example = os.path.relpath(own[0]["file_name"], self._roots[name])
                raise UserError(
                    f"TRUTH of {name} ({MetadataCatalog.get(name).truth_file}) names none of its images, such as "
                    f"{example}: file names must be relative to {self._roots[name]}."
                )

    def known_among(self, records: Sequence[Mapping[str, Any]]) -> List[int]:
        """The indices of the records whose truth is known."""
        if not self._truth:
            return []
        return [index for index, record in enumerate(records) if self(record) is not None]

    def __call__(self, record: Mapping[str, Any]) -> Optional[ImageTruth]:
        """The truth of a record (`dataset_name`, `file_name`). None if there is none."""
        name = record["dataset_name"]
        if name not in self._truth:
            return None
        return self._truth[name].get(os.path.relpath(record["file_name"], self._roots[name]))

    def masks(self, record: Mapping[str, Any]) -> Optional[List[Optional[Rle]]]:
        """The masks of a record's true boxes, in the same order. None if they are not known."""
        name = record["dataset_name"]
        path = os.path.relpath(record["file_name"], self._roots.get(name, ""))
        return self._masks.get(name, {}).get(path)
