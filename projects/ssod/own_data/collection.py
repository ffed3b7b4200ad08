"""All images of a folder with the labels that any number of datasets in it have for them.

Boxes are XYXY in pixels of the image.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

from detectron2.structures import BoxMode

from ssod.data.formats.images import list_images
from ssod.data.formats.registry import DeclaredSet
from ssod.data.masks import Rle, as_json, is_rle
from ssod.data.records import read_image_size
from ssod.errors import UserError
from ssod.utils.progress import progress

# Formats that list every image of a project, labelled or not.
_LISTS_ALL = ("coco", "lvis", "cvat")


@dataclass(frozen=True)
class Box:
    """One box; `label` indexes the collection's classes. `mask`: where masks are read."""

    label: int
    corners: Tuple[float, float, float, float]
    iscrowd: bool = False
    mask: Optional[Rle] = field(default=None, compare=False)


@dataclass
class Photo:
    """An image.

    Args:
        path: relative to the collection's root. split: "train", "val", "test" or "" where nothing
            says.
        boxes: None if it is not labelled, [] if it is labelled as empty. size: (height, width),
            None if unreadable.
    """

    path: str
    split: str = ""
    boxes: Optional[List[Box]] = None
    size: Optional[Tuple[int, int]] = None

    @property
    def is_labelled(self) -> bool:
        return self.boxes is not None


@dataclass
class Collection:
    """Images below one folder, sorted by path; `messages` is what the readers had to say."""

    root: str
    classes: List[str]
    photos: List[Photo]
    formats: List[str]
    messages: List[str] = field(default_factory=list)

    def full_path(self, photo: Photo) -> str:
        return os.path.join(self.root, photo.path)

    def labelled(self) -> List[Photo]:
        return [photo for photo in self.photos if photo.is_labelled]

    def unlabelled(self) -> List[Photo]:
        return [photo for photo in self.photos if not photo.is_labelled]


class _Messages(logging.Handler):
    """Keeps what is logged, so that a command can print it where it belongs."""

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
        sets: (set, its split). formats: of each.
        root: the folder that paths become relative to.
        whole_folder: images below `root` that no set knows are added, without labels.

    Raises:
        UserError: a set cannot be read, or two sets disagree on an image's labels.
    """
    classes: Dict[str, int] = {}
    photos: Dict[str, Photo] = {}
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
                photos.setdefault(path, Photo(path))
    finally:
        logger.removeHandler(messages)
        logger.propagate = propagate
    texts = list(dict.fromkeys(messages.texts))
    return _finish(Collection(root, list(classes), list(photos.values()), list(formats), texts))


def collect_records(
    records: Sequence[Dict[str, Any]], names: Sequence[str], root: str
) -> Collection:
    """The collection of Detectron2's records with "annotations", whose classes are indices into
    `names`.
    """
    classes = {name: i for i, name in enumerate(names)}
    photos: Dict[str, Photo] = {}
    for record in records:
        boxes = [_box(a, list(names), classes) for a in record.get("annotations", ())]
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
    classes: Dict[str, int],
    photos: Dict[str, Photo],
) -> None:
    names = dataset.classes()
    for name in names:
        classes.setdefault(name, len(classes))
    for record in dataset.unlabeled_records():
        photo = _photo(record, root, photos)
        photo.split = photo.split or split
    if not dataset.has_labels():
        return
    for record in dataset.labeled_records():
        photo = _photo(record, root, photos)
        boxes = [_box(annotation, names, classes) for annotation in record["annotations"]]
        if not boxes and kind in _LISTS_ALL:
            continue
        if photo.boxes and boxes and photo.boxes != boxes:
            raise UserError(
                f"{photo.path} is labelled twice with different boxes, also by {dataset.source}: remove one."
            )
        photo.boxes = photo.boxes or boxes
        if "height" in record and "width" in record:
            photo.size = record["height"], record["width"]


def _photo(record: Dict[str, Any], root: str, photos: Dict[str, Photo]) -> Photo:
    path = os.path.relpath(record["file_name"], root).replace(os.sep, "/")
    return photos.setdefault(path, Photo(path))


def _box(annotation: Dict[str, Any], names: List[str], classes: Dict[str, int]) -> Box:
    mode = BoxMode(annotation["bbox_mode"])
    x0, y0, x1, y1 = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
    label = classes[names[annotation["category_id"]]]
    rle = annotation.get("segmentation")
    mask = rle if is_rle(rle) else None
    return Box(label, (x0, y0, x1, y1), bool(annotation.get("iscrowd", 0)), mask)


def _size(path: str) -> Optional[Tuple[int, int]]:
    try:
        return read_image_size(path)
    except OSError:
        return None


def to_coco(collection: Collection, photos: Sequence[Photo]) -> Dict[str, Any]:
    """Some of the images in COCO's format, file names relative to the root; images without labels
    have no boxes.
    """
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
                    "category_id": box.label + 1,
                    "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
                    "area": round((x1 - x0) * (y1 - y0), 3),
                    "iscrowd": int(box.iscrowd),
                    **({"segmentation": as_json(box.mask)} if box.mask else {}),
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(collection.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
