"""The boxes of many records as arrays, for statistics over a whole set.

Shapes: N records, A annotations of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.structures import BoxMode

from ssod.data.columns import Choices, Column, Lists, Maybe, Numbers
from ssod.data.packed import PackedRecords, Part, columns_of

_TABLE = 1 << 22  # entries of a table of images and classes


@dataclass(frozen=True)
class LabelColumns:
    """Every annotation of a sequence of records, in their order.

    Attributes:
        image: int64 (A,), the record's index.
        classes: int64 (A,).
        crowd: bool (A,).
    """

    image: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray

    def trained(self) -> "LabelColumns":
        """Those that are trained on: all but crowds."""
        kept = ~self.crowd
        return LabelColumns(self.image[kept], self.classes[kept], self.crowd[kept])


def label_columns(records: Sequence[Mapping[str, Any]]) -> LabelColumns:
    """The annotations of records. Those without "annotations" have none."""
    found: List[Tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for part in PackedRecords.of(records).parts:
        image, *columns = _of_part(part)
        found.append((image + start, *columns))  # type: ignore[arg-type]
        start += len(part)
    if not found:
        return LabelColumns(*(np.zeros(0, dtype=kind) for kind in (np.int64, np.int64, bool)))
    return LabelColumns(*map(np.concatenate, zip(*found)))


def has_trained_box(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """bool (N,): whether a record has a box that is no crowd's."""
    found = np.zeros(len(records), dtype=bool)
    found[label_columns(records).trained().image] = True
    return found


def trained_boxes(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """float64 (A, 4) XYXY of `label_columns(records).trained()`, converted like single boxes by
    Detectron2 (in float32 if they are not XYXY).
    """
    found = [_boxes_of_part(part) for part in PackedRecords.of(records).parts]
    return np.concatenate(found) if found else np.zeros((0, 4))


def repeat_factors(image: np.ndarray, classes: np.ndarray, size: int, rare: float) -> np.ndarray:
    """Detectron2's `repeat_factors_from_category_frequency`, from arrays: (N,) float32 factors of
    Gupta et al., "LVIS", CVPR 2019, `max over classes of max(1, sqrt(rare / frequency))`.

    Args:
        image, classes: int64 (A,) of each box, with images in ascending order. size: N. rare: the
            frequency below which a class is rare.
    """
    factors = np.ones(size)
    if len(classes):
        own_image, own_class = _unique_pairs(image, classes)
        _, inverse, counts = np.unique(own_class, return_inverse=True, return_counts=True)
        of_class = np.maximum(1.0, np.sqrt(rare / (counts / size)))
        np.maximum.at(factors, own_image, of_class[inverse])
    return torch.from_numpy(factors).float().numpy()


def images_per_class(labels: LabelColumns, num_classes: int) -> np.ndarray:
    """int64 (K,) images that have a box of each class, crowds aside."""
    trained = labels.trained()
    if not len(trained.classes):
        return np.zeros(num_classes, dtype=np.int64)
    return np.bincount(_unique_pairs(trained.image, trained.classes)[1], minlength=num_classes)


def boxes_per_class(labels: LabelColumns, num_classes: int) -> np.ndarray:
    """int64 (K,) boxes of each class, crowds aside."""
    return np.bincount(labels.trained().classes, minlength=num_classes)


def _unique_pairs(image: np.ndarray, classes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Each (image, class) once, in order. A table of some images at a time takes less than sorting
    all pairs. image: ascending.
    """
    span = int(classes.max()) + 1
    step = max(1, _TABLE // span)
    keys: List[np.ndarray] = []
    for first in range(0, int(image[-1]) + 1, step):
        start, stop = np.searchsorted(image, [first, first + step])
        table = np.zeros(step * span, dtype=bool)
        table[(image[start:stop] - first) * span + classes[start:stop]] = True
        keys.append(np.flatnonzero(table) + first * span)
    found = np.concatenate(keys)
    return found // span, found % span


def _of_part(part: Part) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    plain = _plain(part)
    if plain is None:
        rows = part.span(part.table, 0, len(part))
        pairs = [(i, a) for i, row in enumerate(rows) for a in row.get("annotations") or ()]
        return (
            np.array([i for i, _ in pairs], dtype=np.int64),
            np.array([a["category_id"] for _, a in pairs], dtype=np.int64),
            np.array([bool(a.get("iscrowd", 0)) for _, a in pairs], dtype=bool),
        )
    bounds, classes, crowd = plain
    index, counts = _gather(bounds, part.rows)
    image = np.repeat(np.arange(len(part)), counts)
    return image, classes[index].astype(np.int64), crowd[index]


def _plain(part: Part) -> Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Where each row's annotations end, and their classes and crowd flags. None if some columns are
    of an unusual kind.
    """
    lists, columns = part.table.columns.get("annotations"), columns_of(part, "annotations")
    if lists is None:
        nothing = np.zeros(0, dtype=np.int64)
        return np.zeros(len(part.table) + 1, dtype=np.int64), nothing, nothing.astype(bool)
    if not isinstance(lists, Lists):
        return None
    if not len(lists.inner):
        nothing = np.zeros(0, dtype=np.int64)
        return lists.bounds(), nothing, nothing.astype(bool)
    classes, crowd = columns.get("category_id"), _flags(columns.get("iscrowd"), len(lists.inner))
    if not isinstance(classes, Numbers) or classes.whole is not None or crowd is None:
        return None
    return lists.bounds(), classes.values, crowd


def _flags(column: Optional[Column], size: int) -> Optional[np.ndarray]:
    if column is None:
        return np.zeros(size, dtype=bool)
    if isinstance(column, Numbers):
        return column.values.astype(bool)
    if isinstance(column, (Choices, Maybe)):
        return np.array([value is True or value == 1 for value in column.span(0, size)], dtype=bool)
    return None


def _gather(bounds: np.ndarray, rows: Optional[np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
    """The places of all values of some lists, and how many each list has."""
    if rows is None:
        return np.arange(bounds[-1]), np.diff(bounds)
    counts = bounds[rows + 1] - bounds[rows]
    first = bounds[rows] - (np.cumsum(counts) - counts)
    return np.repeat(first, counts) + np.arange(counts.sum()), counts


def _boxes_of_part(part: Part) -> np.ndarray:
    plain, columns = _plain(part), columns_of(part, "annotations")
    boxes, mode = columns.get("bbox"), columns.get("bbox_mode")
    if (
        plain is None
        or not isinstance(boxes, Lists)
        or boxes.ends != 4
        or not isinstance(boxes.inner, Numbers)
        or not isinstance(mode, Choices)
        or mode.codes is not None
    ):
        return _boxes_one_by_one(part)
    bounds, _, crowd = plain
    index, _ = _gather(bounds, part.rows)
    found = boxes.inner.values.reshape(-1, 4)[index[~crowd[index]]].astype(np.float64)
    if mode.values[0] == BoxMode.XYXY_ABS:
        return found
    single = torch.from_numpy(found.astype(np.float32))
    return BoxMode.convert(single, mode.values[0], BoxMode.XYXY_ABS).numpy().astype(np.float64)


def _boxes_one_by_one(part: Part) -> np.ndarray:
    found: List[List[float]] = []
    for row in part.span(part.table, 0, len(part)):
        for annotation in row.get("annotations") or ():
            if not annotation.get("iscrowd", 0):
                mode = BoxMode(annotation["bbox_mode"])
                box = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
                found.append([float(v) for v in box])
    return np.array(found, dtype=np.float64).reshape(-1, 4)
