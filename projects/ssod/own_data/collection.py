"""All images of a folder, with the labels of any number of datasets in it.

Boxes are XYXY in pixels of the image.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

from detectron2.structures import BoxMode

from ssod.data.formats.annotated import ImageLabels, LabelledBox
from ssod.data.formats.images import list_images
from ssod.data.formats.registry import DeclaredSet
from ssod.data.masks import as_json, is_rle
from ssod.data.records import read_image_size
from ssod.errors import UserError
from ssod.utils.progress import progress

# Formats that list every image of a project, labelled or not. In these, an image without boxes may
# be unlabelled.
_LISTS_ALL = ("coco", "lvis", "cvat")


@dataclass
class Collection:
    """Images below one folder.

    Attributes:
        root: the folder that the images' paths are relative to.
        classes: all class names, in order.
        photos: the images, sorted by path.
        formats: formats of the sets that were read.
        messages: the readers' warnings.
    """

    root: str
    classes: List[str]
    photos: List[ImageLabels]
    formats: List[str]
    messages: List[str] = field(default_factory=list)

    def full_path(self, photo: ImageLabels) -> str:
        return os.path.join(self.root, photo.path)

    def labelled(self) -> List[ImageLabels]:
        return [photo for photo in self.photos if photo.boxes is not None]

    def unlabelled(self) -> List[ImageLabels]:
        return [photo for photo in self.photos if photo.boxes is None]


class _Messages(logging.Handler):
    """Keeps log messages, so that a command can print them in its own place."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: List[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def collect(
    sets: Sequence[Tuple[DeclaredSet, str]],
    root: str,
    formats: Sequence[str],
    *,
    whole_folder: bool = False,
) -> Collection:
    """Reads every set.

    Args:
        sets: pairs of a set and its split.
        formats: the format of each set.
        root: the folder that paths become relative to.
        whole_folder: also adds the images below `root` that no set lists, without labels.

    Raises:
        UserError: a set cannot be read, or two sets disagree on an image's labels.
    """
    classes: Dict[str, None] = {}
    photos: Dict[str, ImageLabels] = {}
    messages = _Messages()
    logger = logging.getLogger("ssod.data")
    propagate = logger.propagate
    logger.addHandler(messages)
    logger.propagate = False
    try:
        for (dataset, split), kind in zip(sets, formats):
            _add_set(dataset, split, kind, root, classes, photos)
        if whole_folder:
            for path in list_images(root):
                photos.setdefault(path, ImageLabels(path))
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagate
    texts = list(dict.fromkeys(messages.texts))
    return _finish(Collection(root, list(classes), list(photos.values()), list(formats), texts))


def collect_records(
    records: Sequence[Dict[str, Any]], names: Sequence[str], root: str
) -> Collection:
    """Makes a collection of Detectron2's records. The classes of their "annotations" are indices
    into `names`.
    """
    photos: Dict[str, ImageLabels] = {}
    for record in records:
        boxes = [_box(a, names) for a in record.get("annotations", ())]
        _photo(record, root, photos).boxes = boxes or None
    return _finish(Collection(root, list(names), list(photos.values()), ["registered"]))


def _finish(collection: Collection) -> Collection:
    for photo in progress(collection.photos, "reading sizes"):
        if photo.size is None:
            photo.size = _size(collection.full_path(photo))
    collection.photos.sort(key=lambda photo: photo.path)
    collection.formats = sorted(set(collection.formats))
    return collection


def _add_set(
    dataset: DeclaredSet,
    split: str,
    kind: str,
    root: str,
    classes: Dict[str, None],
    photos: Dict[str, ImageLabels],
) -> None:
    names = dataset.classes()
    classes.update(dict.fromkeys(names))  # in the order in which they first appear
    for record in dataset.unlabeled_records():
        photo = _photo(record, root, photos)
        photo.split = photo.split or split
    if not dataset.has_labels():
        return
    for record in dataset.labeled_records():
        photo = _photo(record, root, photos)
        boxes = [_box(annotation, names) for annotation in record["annotations"]]
        if not boxes and kind in _LISTS_ALL:
            continue
        if photo.boxes and boxes and photo.boxes != boxes:
            raise UserError(
                f"{photo.path} is labelled twice with different boxes, also by {dataset.source}: remove one."
            )
        photo.boxes = photo.boxes or boxes
        if "height" in record and "width" in record:
            photo.size = record["height"], record["width"]


def _photo(record: Dict[str, Any], root: str, photos: Dict[str, ImageLabels]) -> ImageLabels:
    path = os.path.relpath(record["file_name"], root).replace(os.sep, "/")
    return photos.setdefault(path, ImageLabels(path))


def _box(annotation: Dict[str, Any], names: Sequence[str]) -> LabelledBox:
    mode = BoxMode(annotation["bbox_mode"])
    x0, y0, x1, y1 = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
    rle = annotation.get("segmentation")
    mask = rle if is_rle(rle) else None
    crowd = bool(annotation.get("iscrowd", 0))
    return LabelledBox(names[annotation["category_id"]], (x0, y0, x1, y1), crowd, mask=mask)


def _size(path: str) -> Optional[Tuple[int, int]]:
    try:
        return read_image_size(path)
    except OSError:
        return None


def to_coco(collection: Collection, photos: Sequence[ImageLabels]) -> Dict[str, Any]:
    """Some of the images in COCO's format. File names are relative to the root. Images without
    labels have no boxes.
    """
    number = {name: i + 1 for i, name in enumerate(collection.classes)}
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for photo in photos:
        image: Dict[str, Any] = {"id": len(images) + 1, "file_name": photo.path}
        if photo.size:
            image.update(height=photo.size[0], width=photo.size[1])
        images.append(image)
        for box in photo.boxes or ():
            x0, y0, x1, y1 = box.corners
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": number[box.label],
                    "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "area": round((x1 - x0) * (y1 - y0), 3),
                    "iscrowd": int(box.iscrowd),
                    **({"segmentation": as_json(box.mask)} if box.mask else {}),
                }
            )
    categories = [{"id": i, "name": name} for name, i in number.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
