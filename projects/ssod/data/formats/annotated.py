"""The base class of annotation tools' formats: turns each image's labels into records.

A format reads its files in `read`, with a `LabelReader` that finds the images, checks the boxes and
counts what cannot be used.

Why no converter library does this: four were run on the cases of tests/data/formats.
globox 2.9 and labelformat 0.1.17 ignore the rotation of CVAT's boxes and leave out all its other
shapes, and reversed boxes stay reversed or are an error. globox and supervision 0.31 give up the
whole set at the first line or box that is malformed. labelformat leaves out polygons and scores in
YOLO's files. globox refuses, and supervision misses, images in sub-folders that share a name.
supervision and globox cannot tell an image without a label file from one without objects, a
difference that semi-supervised training needs. None of these three reads Label Studio's JSON or a
table with columns of other names. datumaro 1.13 needs other versions of OpenCV, Pillow and pandas
than this project pins.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

from detectron2.structures import BoxMode

from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.formats.geometry import Point
from ssod.data.formats.images import ImageFolder, ImageNotFound
from ssod.data.formats.registry import class_list, optional_path, resolve_path
from ssod.data.masks import Rle, read_mask
from ssod.data.paths_column import image_records
from ssod.data.records import Record, read_image_size
from ssod.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledBox:
    """One usable box: XYXY in pixels of the image as it is shown, turned by its EXIF tag.

    Attributes:
        label: the class name.
        polygon: the drawn outline, x, y, x, y, ..., if the shape is a polygon.
        mask: the object's pixels, where a reader of masks has them.
    """

    label: str
    corners: Tuple[float, float, float, float]
    iscrowd: bool = False
    polygon: Tuple[float, ...] = ()
    mask: Optional[Rle] = field(default=None, compare=False)


@dataclass
class ImageLabels:
    """The labels of one image.

    Args:
        path: relative to the folder of the images.
        boxes: None if the image is not labelled. [] if it is labelled as empty.
        size: (height, width). None if the image cannot be read.
        split: "train", "val" or "test". "" if nothing names it.
    """

    path: str
    boxes: Optional[List[LabelledBox]] = None
    size: Optional[Tuple[int, int]] = None
    split: str = ""


@dataclass
class Reading:
    """The content of a set's files.

    Args:
        images: all images, sorted by path, including those without labels.
        classes: the format's own list, in its order. None if it has none.
        skipped: unusable boxes. without_image: labels whose image was not found.
        problem: the reason why no image is labelled. "" if some are.
    """

    images: List[ImageLabels]
    classes: Optional[Tuple[str, ...]]
    skipped: SkippedBoxes
    without_image: SkippedBoxes
    problem: str = ""

    def class_names(self) -> Tuple[str, ...]:
        if self.classes is not None:
            return self.classes
        return tuple(sorted({box.label for image in self.images for box in image.boxes or ()}))


@dataclass
class LabelReader:
    """Collects the labels of a set while a format reads its files."""

    source: str
    folder: ImageFolder
    entries: Dict[str, ImageLabels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.skipped = SkippedBoxes(self.source)
        self.layout = BoxLayout(self.source)
        self.without_image = SkippedBoxes(self.source, "labels")
        self._labelled_by: Dict[str, str] = {}

    def add_image(self, path: str) -> ImageLabels:
        """The entry of an image. The first call makes it, without labels."""
        return self.entries.setdefault(path, ImageLabels(path))

    def find_image(self, written: str, beside: str = "", where: str = "") -> Optional[ImageLabels]:
        """The entry of the image that an annotation names. If there is no such image, it is counted
        and the result is None.
        """
        try:
            return self.add_image(self.folder.find(written, beside))
        except ImageNotFound as error:
            self.without_image.add(where or written, str(error))
            return None

    def mark_labelled(self, entry: ImageLabels) -> ImageLabels:
        """Marks the image as labelled, even if it has no box, and reads its size."""
        if entry.boxes is None:
            entry.boxes = []
            try:
                entry.size = read_image_size(self.folder.full_path(entry.path))
            except OSError:
                pass  # the loader reports unreadable images
        return entry

    def mark_labelled_by(self, entry: ImageLabels, label_file: str) -> None:
        """`mark_labelled` for formats with one label file per image.

        Raises:
            UserError: another file labels the image too.
        """
        other = self._labelled_by.setdefault(entry.path, label_file)
        if other != label_file:
            raise UserError(
                f"{label_file} and {other} in {self.source} both label {entry.path}: remove one."
            )
        self.mark_labelled(entry)

    def add_box(
        self,
        entry: ImageLabels,
        label: Any,
        corners: Sequence[float],
        where: str,
        *,
        iscrowd: bool = False,
        polygon: Sequence[Point] = (),
    ) -> None:
        """Adds an XYXY box, or counts it as skipped.

        Args:
            corners: XYXY, [] for a shape that has no box. where: the place that the message lists.
            polygon: the polygon's points in pixels, if the shape is a polygon.
        """
        self.mark_labelled(entry)
        assert entry.boxes is not None
        name = str(label).strip() if label is not None else ""
        problem = None if name else "without a class"
        self.layout.add(corners, *(entry.size or (None, None)))
        problem = problem or box_problem(corners, *(entry.size or (None, None)))
        if problem:
            self.skipped.add(where, problem, self.folder.full_path(entry.path))
            return
        x0, y0, x1, y1 = (float(v) for v in corners)
        outline = tuple(float(v) for point in polygon for v in point)
        entry.boxes.append(LabelledBox(name, (x0, y0, x1, y1), iscrowd, outline))

    def finish(self, classes: Optional[Sequence[str]] = None) -> Reading:
        """The reading, once all files are read.

        Raises:
            UserError: the boxes are certainly in other units than pixels.
        """
        self.layout.check(corners=True)
        images = sorted(self.entries.values(), key=lambda entry: entry.path)
        names = None if classes is None else tuple(classes)
        unlabelled = all(entry.boxes is None for entry in images)
        problem = self._why_unlabelled() if unlabelled else ""
        return Reading(images, names, self.skipped, self.without_image, problem)

    def _why_unlabelled(self) -> str:
        lost = self.without_image.reasons
        if not lost:
            return f"{self.source} has no labelled image: name the right file or folder."
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items()))
        return (
            f"{self.source} has labels, but none of them for an image below {self.folder.root} "
            f"({reasons}; the first: {self.without_image.examples[0]}): correct IMAGES."
        )


@dataclass(frozen=True)
class AnnotatedSet(ABC):
    """A declared dataset. A format only implements `read`; everything else follows from its result.

    ANNOTATIONS is a file or a folder. Without IMAGES, the images are in the folder of ANNOTATIONS.
    CLASSES fixes the classes and their order. `masks` says whether polygons are read as masks
    (`MODEL.MASK_ON`).
    """

    REQUIRED: ClassVar[Tuple[str, ...]] = ("ANNOTATIONS",)
    OPTIONAL: ClassVar[Tuple[str, ...]] = ("IMAGES", "CLASSES", "TRUTH", "GROUPS")

    name: str
    annotations: str
    images: str = ""
    split: str = ""
    class_names: Tuple[str, ...] = ()
    truth: Optional[str] = None
    groups: Optional[str] = None
    masks: bool = False

    @classmethod
    def from_node(cls, name: str, node: Mapping[str, Any]) -> "AnnotatedSet":
        split = node.get("SPLIT") or ""
        if not isinstance(split, str):
            raise UserError(f"SPLIT is {split!r}: write it in quotes.")
        return cls(
            name=name,
            annotations=resolve_path(node["ANNOTATIONS"]),
            images=optional_path(node, "IMAGES") or "",
            split=split,
            class_names=class_list(node),
            truth=optional_path(node, "TRUTH"),
            groups=optional_path(node, "GROUPS"),
        )

    @abstractmethod
    def read(self) -> Reading:
        """Reads the files. It is called once for each state of the files."""

    @abstractmethod
    def label_files(self) -> List[str]:
        """The files that hold the labels."""

    @property
    def source(self) -> str:
        return self.annotations

    @property
    def image_root(self) -> str:
        if self.images:
            return self.images
        if os.path.isdir(self.annotations):
            return self.annotations
        return os.path.dirname(self.annotations) or "."

    def reading(self) -> Reading:
        """The result of `read`, kept until a file changes."""
        if not os.path.exists(self.annotations):
            raise UserError(
                f"{self.annotations} does not exist: correct ANNOTATIONS of {self.name}."
            )
        watched = [*self.label_files(), self.image_root]
        stamp = max(
            (os.stat(path).st_mtime_ns for path in watched if os.path.exists(path)), default=0
        )
        return _read_once(self, len(watched), stamp)

    def image_paths(self) -> List[str]:
        """All images of the set, sorted.

        A format that can list them without reading a label overrides this.
        """
        return [entry.path for entry in self.reading().images]

    def files_to_hash(self) -> List[str]:
        return [*self.label_files(), *([self.groups] if self.groups else [])]

    def names_to_hash(self) -> List[str]:
        return self.image_paths()

    def classes(self) -> List[str]:
        return list(self.class_names or self._labels().class_names())

    def _labels(self) -> Reading:
        reading = self.reading()
        if reading.problem:
            raise UserError(reading.problem)
        return reading

    def metadata(self) -> Dict[str, Any]:
        known = {"image_root": self.image_root}
        return {**known, "groups_file": self.groups} if self.groups else known

    def has_labels(self) -> bool:
        return True

    def unlabeled_records(self) -> Sequence[Record]:
        """Every image of the set, labelled or not, without annotations.

        Image ids count from 1 in the order of the paths.
        """
        return image_records(self.image_root, self.image_paths())

    def labeled_records(self) -> List[Record]:
        """The labelled images, with "annotations" (class indices; XYXY boxes).

        With `masks` an annotation has a "segmentation" (an `Rle`). Shapes that are not a usable
        polygon are skipped and reported.
        """
        skipped = SkippedBoxes(self.source, "boxes without a usable mask")
        reading, root = self._labels(), self.image_root
        indices = {name: i for i, name in enumerate(self.classes())}
        records = []
        for number, entry in enumerate(reading.images):
            if entry.boxes is None:
                continue
            file_name = os.path.join(root, entry.path)
            record = Record(file_name=file_name, image_id=number + 1, annotations=[])
            if entry.size:
                record.update(height=entry.size[0], width=entry.size[1])
            for box in entry.boxes:
                if box.label not in indices:
                    whose = f"CLASSES of {self.name}" if self.class_names else "its list of classes"
                    raise UserError(
                        f"{self.source}: {entry.path} has the class {box.label!r}, which is not in {whose}: add it."
                    )
                annotation: Dict[str, Any] = {
                    "bbox": list(box.corners),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": indices[box.label],
                    "iscrowd": int(box.iscrowd),
                }
                if self.masks:
                    polygons = [list(box.polygon)] if box.polygon else []
                    size = entry.size or (None, None)
                    annotation["segmentation"], problem = read_mask(
                        polygons, box.corners, *size, is_crowd=box.iscrowd
                    )
                    if problem:
                        skipped.add(f"{entry.path}: {box.label}", problem, file_name)
                        continue
                record["annotations"].append(annotation)
            records.append(record)
        skipped.report()
        return records


@lru_cache(maxsize=8)
def _read_once(dataset: AnnotatedSet, files: int, stamp: int) -> Reading:
    reading = dataset.read()
    reading.skipped.report()
    reading.without_image.report()
    _warn_of_twins(dataset.source, reading.class_names())
    unlabelled = sum(entry.boxes is None for entry in reading.images)
    if unlabelled:
        logger.info(
            f"{dataset.source}: {unlabelled} of {len(reading.images)} images have no labels; they count as unlabelled."
        )
    return reading


def _warn_of_twins(source: str, names: Sequence[str]) -> None:
    """Warns about two spellings of a class name, which count as two classes."""
    spellings: Dict[str, List[str]] = {}
    for name in names:
        spellings.setdefault("".join(name.lower().split()), []).append(name)
    twins = [" and ".join(map(repr, found)) for found in spellings.values() if len(found) > 1]
    if twins:
        logger.warning(
            f"{source}: the classes {'; '.join(twins)} differ in capitals or blanks alone, and count as different classes."
        )
