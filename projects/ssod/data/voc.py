"""Datasets in Pascal VOC's layout: ROOT/{JPEGImages,Annotations,ImageSets/Main/SPLIT.txt}, with any
class names.
"""

from __future__ import annotations

import logging
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from detectron2.structures import BoxMode

from ssod.data.box_layout import BoxLayout
from ssod.data.boxes import SkippedBoxes, box_problem
from ssod.data.formats.geometry import box_around, corners_of, rotate
from ssod.data.formats.registry import (
    DeclaredSet,
    class_list,
    optional_path,
    register_format,
    resolve_path,
)
from ssod.data.records import IMAGE_SUFFIXES, Record, read_image_size
from ssod.errors import UserError, relative_to
from ssod.utils.progress import progress

logger = logging.getLogger(__name__)


def read_xml(path: str) -> ElementTree.Element:
    """The root of an annotation file. A missing or broken file is a `UserError`."""
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist{relative_to(path)}: add it or take the image out of the split."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct it.") from None
    # Python raises LookupError for an unknown encoding, and ValueError for one that does not fit.
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{path} is not valid XML ({error}): repair it.") from None


@lru_cache(maxsize=8)
def classes_of_folder(root: str) -> Tuple[str, ...]:
    """All class names in ROOT/Annotations, sorted. They are from all splits, so that splits of one
    root agree.
    """
    folder = os.path.join(root, "Annotations")
    if not os.path.isdir(folder):
        raise UserError(
            f"{folder} does not exist{relative_to(folder)}: ROOT must be a folder in VOC layout."
        )
    names: Set[str] = set()
    for file_name in sorted(os.listdir(folder)):
        # Archives made on a Mac have a "._x.xml" next to each x.xml.
        if file_name.lower().endswith(".xml") and not file_name.startswith("."):
            xml = read_xml(os.path.join(folder, file_name))
            names.update((found.findtext("name") or "").strip() for found in xml.findall("object"))
    names.discard("")
    if not names:
        raise UserError(f"{folder} holds no labelled objects: correct ROOT.")
    return tuple(sorted(names))


def parse_box(item: ElementTree.Element) -> List[float]:
    """XYXY of an object, [] if a number is missing.

    VOC counts pixels from 1 and includes the last one: (xmin 1, xmax W) covers an image of width W.
    So 1 is subtracted from xmin and ymin only, as in Detectron2. Without a <bndbox>, the box is the
    one around the polygon or the turned box that some tools write in its place.
    """
    try:
        if item.find("bndbox") is None:
            x0, y0, x1, y1 = _box_around_shape(item)
        else:
            x0, y0, x1, y1 = (
                float(item.findtext(f"bndbox/{key}") or "")
                for key in ("xmin", "ymin", "xmax", "ymax")
            )
    except ValueError:
        return []
    if not all(math.isfinite(v) for v in (x0, y0, x1, y1)):
        return []
    # By that rule xmin = xmax would be one pixel wide. In practice it is a labelling error, so the
    # box gets no area.
    if x1 <= x0 or y1 <= y0:
        return [x0, y0, x0, y0]
    return [x0 - 1, y0 - 1, x1, y1]


def _box_around_shape(item: ElementTree.Element) -> List[float]:
    """XYXY around <robndbox> (roLabelImg: centre, size, radians) or <polygon> (x1, y1, x2, ... or
    pt/x, pt/y).
    """
    turned = item.find("robndbox")
    if turned is not None:
        cx, cy, w, h, angle = (
            float(turned.findtext(key) or "") for key in ("cx", "cy", "w", "h", "angle")
        )
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        return box_around(rotate(corners_of(box), math.degrees(angle), (cx, cy)))
    nodes = list(item.iterfind("polygon//*"))
    xs = [float(node.text or "") for node in nodes if re.fullmatch(r"x\d*", node.tag)]
    ys = [float(node.text or "") for node in nodes if re.fullmatch(r"y\d*", node.tag)]
    return box_around(list(zip(xs, ys)))


# EVALUATOR -> year of VOC's metric. None: only COCO's.
_EVALUATORS: Dict[str, Optional[int]] = {"coco": None, "voc2007": 2007, "voc2012": 2012}


@register_format(
    "voc",
    required=("ROOT",),
    optional=("SPLIT", "CLASSES", "TRUTH", "GROUPS", "EVALUATOR", "IGNORE_DIFFICULT"),
)
@dataclass(frozen=True)
class VocSet:
    """`{FORMAT: voc, ROOT: folder, SPLIT: name, CLASSES: [...]}`. Without SPLIT it is a
    `VocFolderSet`.

    Objects marked "difficult" are kept, as in Detectron2, unless `IGNORE_DIFFICULT: True` leaves
    them out of training and of every evaluation. With `EVALUATOR: voc2007` or `voc2012`, VOC's
    metric is computed besides COCO's.
    """

    name: str
    root: str
    split: str
    class_names: Tuple[str, ...] = ()
    truth: Optional[str] = None
    groups: Optional[str] = None
    evaluator: str = "coco"
    ignore_difficult: bool = False

    @classmethod
    def from_node(cls, name: str, node: Mapping[str, Any]) -> DeclaredSet:
        # Imported here, because it uses this module.
        from ssod.data.formats.voc_folder import VocFolderSet

        evaluator, ignore = node.get("EVALUATOR", "coco"), node.get("IGNORE_DIFFICULT", False)
        if evaluator not in _EVALUATORS:
            raise UserError(f"EVALUATOR is {evaluator!r}: use one of {', '.join(_EVALUATORS)}.")
        if not isinstance(ignore, bool):
            raise UserError(f"IGNORE_DIFFICULT is {ignore!r}: use True or False.")
        if evaluator != "coco" and ignore:
            raise UserError(
                "EVALUATOR leaves difficult boxes out of the count, which IGNORE_DIFFICULT would count as false: remove "
                "IGNORE_DIFFICULT, and declare a training set of its own where that needs it."
            )
        if evaluator != "coco" and node.get("GROUPS"):
            raise UserError("GROUPS goes with COCO's metric alone: remove it or EVALUATOR.")
        if not node.get("SPLIT"):
            if evaluator != "coco" or ignore:
                raise UserError(
                    "EVALUATOR and IGNORE_DIFFICULT need SPLIT: name a list of ImageSets/Main."
                )
            return VocFolderSet.from_node(name, node)
        if not isinstance(node["SPLIT"], str):
            raise UserError(f"SPLIT is {node['SPLIT']!r}: write it in quotes.")
        return cls(
            name,
            resolve_path(node["ROOT"]),
            _split_name(node["SPLIT"]),
            class_list(node),
            optional_path(node, "TRUTH"),
            optional_path(node, "GROUPS"),
            evaluator,
            ignore,
        )

    @property
    def split_file(self) -> str:
        return os.path.join(self.root, "ImageSets", "Main", f"{self.split}.txt")

    @property
    def source(self) -> str:
        return self.split_file

    def files_to_hash(self) -> List[str]:
        return [self.split_file, *([self.groups] if self.groups else [])]

    def names_to_hash(self) -> List[str]:
        return []

    def classes(self) -> List[str]:
        return list(self.class_names or classes_of_folder(self.root))

    def metadata(self) -> Dict[str, Any]:
        known: Dict[str, Any] = {
            "dirname": self.root,
            "split": self.split,
            "image_root": os.path.join(self.root, "JPEGImages"),
        }
        if _EVALUATORS[self.evaluator] is not None:
            known["voc_year"] = _EVALUATORS[self.evaluator]
        return {**known, "groups_file": self.groups} if self.groups else known

    def has_labels(self) -> bool:
        return True

    def stems(self) -> List[str]:
        """File names without suffix, in the order of the split file. A name that is listed twice
        counts once.

        A line is a name, which may have spaces, or a name and a second column (-1, 0 or 1), as in
        VOC's lists of a class. The suffix of an image is removed.
        """
        path = self.split_file
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = [line.strip() for line in file if line.strip()]
        except FileNotFoundError:
            folder = os.path.dirname(path)
            found = (
                sorted(f[:-4] for f in os.listdir(folder) if f.endswith(".txt") and f[0] != ".")
                if os.path.isdir(folder)
                else []
            )
            hint = f"set SPLIT to one of {', '.join(found[:20])}" if found else "correct ROOT"
            raise UserError(f"{path} does not exist{relative_to(path)}: {hint}.") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text in UTF-8 ({error}): save it as UTF-8.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): correct it.") from None
        suffixes = self._suffixes()
        stems = [_stem_of(line, suffixes) for line in lines]
        if not stems:
            raise UserError(f"{path} lists no images: use another SPLIT.")
        once = list(dict.fromkeys(stems))
        if len(once) < len(stems):
            logger.warning(
                f"{path} lists {len(stems) - len(once)} images twice: each is used once."
            )
        return once

    def _suffixes(self) -> Dict[str, str]:
        """Stem -> suffix of every image in JPEGImages."""
        folder = os.path.join(self.root, "JPEGImages")
        if not os.path.isdir(folder):
            raise UserError(
                f"{folder} does not exist{relative_to(folder)}: ROOT must be a folder in VOC layout."
            )
        suffixes: Dict[str, str] = {}
        for file_name in sorted(os.listdir(folder)):
            stem, suffix = os.path.splitext(file_name)
            if suffix.lower() in IMAGE_SUFFIXES:
                suffixes.setdefault(stem, suffix)
        return suffixes

    def _image_path(self, stem: str, suffixes: Dict[str, str]) -> str:
        if stem not in suffixes:
            raise UserError(
                f"{os.path.join(self.root, 'JPEGImages', stem)}.jpg, listed in {self.split_file}, does not exist: "
                "add it or take it out of the list."
            )
        return os.path.join(self.root, "JPEGImages", stem + suffixes[stem])

    def unlabeled_records(self) -> List[Record]:
        """Only the images. No annotation file is opened.

        Image ids count from 1 in the order of the split file.
        """
        suffixes = self._suffixes()
        return [
            Record(file_name=self._image_path(stem, suffixes), image_id=i + 1)
            for i, stem in enumerate(self.stems())
        ]

    def labeled_records(self) -> List[Record]:
        """Images with "annotations" (class indices; XYXY boxes). Unusable boxes are skipped and
        reported.
        """
        indices = {name: i for i, name in enumerate(self.classes())}
        records = self.unlabeled_records()
        skipped = SkippedBoxes(self.split_file)
        layout = BoxLayout(self.split_file)
        for record in progress(records, "reading boxes", unit="file"):
            stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
            path = _xml_path(os.path.join(self.root, "Annotations", stem))
            xml = read_xml(path)
            _set_size(record, xml)
            record["annotations"] = []
            size = record.get("height"), record.get("width")
            objects = xml.findall("object")
            if not objects and xml.tag.lower() != "annotation":
                raise UserError(
                    f"{path} is no file of VOC: it begins with <{xml.tag}> and has no <object>. Remove it, or correct ROOT."
                )
            for number, item in enumerate(objects):
                name = (item.findtext("name") or "").strip()
                if not name:
                    raise UserError(f"{path}: object {number + 1} has no name: write its class.")
                if name not in indices:
                    raise UserError(
                        f"{path} has the class {name!r}, which is not in CLASSES of {self.name}: add it."
                    )
                difficult = (item.findtext("difficult") or "").strip() == "1"
                if difficult and self.ignore_difficult:
                    continue
                box = parse_box(item)
                layout.add(box, *size)
                problem = box_problem(box, *size)
                if problem:
                    skipped.add(f"{stem}.xml object {number + 1}", problem, record["file_name"])
                    continue
                record["annotations"].append(
                    {
                        "bbox": box,
                        "bbox_mode": BoxMode.XYXY_ABS,
                        "category_id": indices[name],
                        "iscrowd": 0,
                        "difficult": int(difficult),
                    }
                )
        layout.check(corners=True)
        skipped.report()
        return records


def _split_name(value: str) -> str:
    """The name of the list. SPLIT may also have the list's suffix or its folders."""
    return value.replace("\\", "/").removeprefix("ImageSets/Main/").removesuffix(".txt")


def _xml_path(path: str) -> str:
    """The path with its suffix, which some tools write in capitals."""
    upper = path + ".XML"
    return upper if not os.path.exists(path + ".xml") and os.path.exists(upper) else path + ".xml"


def _stem_of(line: str, suffixes: Mapping[str, str]) -> str:
    """The name on a line of a split file that belongs to an existing image. If there is no such
    image, the most likely name.
    """
    column = re.fullmatch(r"(.*\S)\s+(?:-1|\+?1|0)", line)
    name = column.group(1) if column else line
    for choice in (line, name):
        base = choice.replace("\\", "/").rsplit("/", 1)[-1]
        stem, suffix = os.path.splitext(base)
        for known in (choice, stem if suffix.lower() in IMAGE_SUFFIXES else base):
            if known in suffixes:
                return known
    return name


def _set_size(record: Record, xml: ElementTree.Element) -> None:
    """Sets the size from the image header, because size tags are often wrong. If the image cannot
    be read, it uses the tags.
    """
    try:
        height, width = read_image_size(record["file_name"])
    except OSError:
        try:
            height, width = (
                int(float(xml.findtext(f"size/{key}") or "")) for key in ("height", "width")
            )
        except (ValueError, OverflowError):
            return
    if height > 0 and width > 0:
        record.update(height=height, width=width)
