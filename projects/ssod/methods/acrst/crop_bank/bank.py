"""The CropBank's contents: the positions of objects in image files. The pixels stay in the files.

Shapes: M instances, K classes, U unlabelled images. Boxes are XYXY in pixels of the image file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.structures import Instances as Labels
from torch import Tensor

from ssod.data.boxes import SkippedBoxes, box_problems
from ssod.data.label_columns import label_columns, trained_boxes
from ssod.data.masks import Rle, decode_mask, encode_mask, tight_boxes
from ssod.data.packed import PackedRecords
from ssod.data.records import trained_annotations
from ssod.methods.acrst.crop_bank.masks import COLUMNS as MASK_COLUMNS
from ssod.methods.acrst.crop_bank.masks import label_grids, pack_grids, unpack_grid
from ssod.structures import PseudoLabels, Sample

# Columns of packed rows. A header row of each image is followed by its labels:
# (image, -1, height, width, 0, 0, 0), then (image, class, score, x0, y0, x1, y1). float64 holds all
# of these values exactly. If there are masks, MASK_COLUMNS more columns hold them (`pack_grids`).
_COLUMNS = 7


@dataclass(frozen=True)
class Instances:
    """Annotations sorted by class, so that drawing one of a class takes a single look-up.

    Attributes:
        boxes: float32 (M, 4). scores: float32 (M,), 1 for human labels.
        images: int32 (M,), index in the bank's dataset. sizes: int32 (M, 2), (height, width) of the
            image file.
        offsets: int64 (K + 1,); class k has rows offsets[k]:offsets[k + 1].
        masks: None if only boxes are trained. Otherwise each row's mask inside its box, and the box
            is tight around the mask. For human labels: (M,) counts of run-length encodings. For
            pseudo-labels: float64 (M, MASK_COLUMNS) grids.
    """

    boxes: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    masks: Optional[np.ndarray] = None

    @classmethod
    def sort(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        images: np.ndarray,
        sizes: np.ndarray,
        classes: np.ndarray,
        num_classes: int,
        masks: Optional[np.ndarray] = None,
    ) -> "Instances":
        """Sorts rows by `classes` (M,); rows of the same class keep their order."""
        order = np.argsort(classes.astype(np.int16), kind="stable")  # 16 bits: a radix sort
        counts = np.bincount(classes, minlength=num_classes)
        return cls(
            boxes[order].astype(np.float32),
            scores[order].astype(np.float32),
            images[order].astype(np.int32),
            sizes[order].astype(np.int32),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            None if masks is None else masks[order],
        )

    @classmethod
    def empty(cls, num_classes: int) -> "Instances":
        none = np.zeros(0, dtype=np.int64)
        return cls.sort(np.zeros((0, 4)), none, none, np.zeros((0, 2)), none, num_classes)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Instances":
        """The inverse of `arrays`. Memory-mapped arrays stay mapped."""
        # These are plain arrays over the same pages, because looking up a row in NumPy's own memmap
        # class takes several times longer.
        names = [field.name for field in fields(cls) if field.name in arrays]
        return cls(**{name: np.asarray(arrays[name]) for name in names})

    def arrays(self) -> Dict[str, np.ndarray]:
        """The arrays by attribute name, for a snapshot."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def mask(self, row: int) -> Optional[np.ndarray]:
        """The bool mask of a row in its box, in the box's pixels or coarser. None without masks."""
        if self.masks is None:
            return None
        found = self.masks[row]
        if not isinstance(found, bytes):
            return unpack_grid(found)
        x0, y0, x1, y1 = (int(v) for v in self.boxes[row])
        return decode_mask({"size": [y1 - y0, x1 - x0], "counts": found})

    @property
    def counts(self) -> np.ndarray:
        """int64 (K,): instances of each class."""
        return np.diff(self.offsets)


def labeled_instances(
    records: Sequence[Mapping[str, Any]], num_classes: int, *, masks: bool = False
) -> Instances:
    """The labelled bank, from Detectron2 dataset dicts. Crowds are left out. Unusable boxes are
    skipped and listed.

    Args:
        masks: annotations have masks (`Rle`). The boxes are then those around the masks.
    """
    packed = PackedRecords.of(records)
    labels, boxes, sizes = label_columns(packed).trained(), trained_boxes(packed), _sizes(packed)
    own_sizes = sizes[labels.image]
    skipped = SkippedBoxes("CropBank")
    usable = np.ones(len(boxes), dtype=bool)
    for row, problem in box_problems(boxes, own_sizes[:, 0], own_sizes[:, 1]).items():
        skipped.add(packed.column("file_name")[labels.image[row]], problem)
        usable[row] = False
    skipped.report()
    known: Optional[np.ndarray] = None
    if masks:
        found = (a["segmentation"] for record in packed for a in trained_annotations(record))
        cut = [_cut_mask(rle) if kept else None for rle, kept in zip(found, usable.tolist())]
        known = np.empty(int(usable.sum()), dtype=object)
        known[:] = [pair[1] for pair in cut if pair]
        boxes = np.array([pair[0] for pair in cut if pair], dtype=np.float64).reshape(-1, 4)
    else:
        boxes = boxes[usable]
    image, classes = labels.image[usable], labels.classes[usable]
    ones = np.ones(len(boxes))
    return Instances.sort(boxes, ones, image, own_sizes[usable], classes, num_classes, known)


def _sizes(records: PackedRecords) -> np.ndarray:
    """int64 (N, 2) heights and widths. Those that records lack come from the images' headers."""
    sizes = np.stack([records.whole_numbers("height"), records.whole_numbers("width")], axis=1)
    for index in np.flatnonzero((sizes == 0).any(axis=1)).tolist():
        record = records[index]
        sizes[index] = record["height"], record["width"]
    return sizes


def _cut_mask(rle: Rle) -> Tuple[List[float], bytes]:
    """The tight box of a mask, and the counts of the mask in it."""
    mask = decode_mask(rle)
    box = tight_boxes(torch.from_numpy(mask)[None])[0].tolist()
    x0, y0, x1, y1 = (int(v) for v in box)
    return box, encode_mask(mask[y0:y1, x0:x1])["counts"]


def pack_labels(
    image: int,
    size: Sequence[int],
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    masks: Optional[np.ndarray] = None,
) -> np.ndarray:
    """One image's labels as float64 packed rows (1 + M, 7), as sent and stored.

    Args:
        masks: (M, MASK_COLUMNS), appended as further columns.
    """
    packed = np.zeros((1 + len(boxes), _columns(masks is not None)))
    packed[:, 0] = image
    packed[0, 1:4] = (-1, *size)
    packed[1:, 1], packed[1:, 2], packed[1:, 3:_COLUMNS] = classes, scores, boxes
    if masks is not None:
        packed[1:, _COLUMNS:] = masks
    return packed


def _columns(masks: bool) -> int:
    return _COLUMNS + (MASK_COLUMNS if masks else 0)


class PseudoBank:
    """The latest pseudo-labels of each unlabelled image.

    New rows are appended, and the image's former rows are marked as dead. Dead rows are removed
    when the arrays are full. The average cost of an update therefore depends on its own size, not
    on the bank's. Living rows stay in the order in which they arrived.

    Args:
        masks: whether labels have masks.
    """

    def __init__(self, num_images: int, num_classes: int, *, masks: bool = False) -> None:
        self.num_images, self.num_classes = num_images, num_classes
        self.columns = _columns(masks)
        self._start = np.zeros(num_images, dtype=np.int64)
        self._count = np.zeros(num_images, dtype=np.int64)
        self._sizes = np.zeros((num_images, 2), dtype=np.int32)  # 0: not visited yet
        self._visited = 0
        self._set_rows(np.zeros((0, self.columns)))

    def _set_rows(self, rows: np.ndarray) -> None:
        """Replaces all rows by `rows`, without headers and grouped by image."""
        self._used = len(rows)
        capacity = max(1024, 2 * self._used)
        self._images = np.full(capacity, -1, dtype=np.int32)  # -1: dead or free
        self._classes = np.zeros(capacity, dtype=np.int32)
        self._values = np.zeros((capacity, 5), dtype=np.float32)  # score and box
        self._masks = np.zeros((capacity, self.columns - _COLUMNS))
        self._images[: self._used] = rows[:, 0]
        self._classes[: self._used] = rows[:, 1]
        self._values[: self._used] = rows[:, 2:_COLUMNS]
        self._masks[: self._used] = rows[:, _COLUMNS:]
        images, first, counts = np.unique(
            self._images[: self._used], return_index=True, return_counts=True
        )
        self._start[:], self._count[:] = 0, 0
        self._start[images], self._count[images] = first, counts

    def _rows(self) -> np.ndarray:
        """Living rows, packed."""
        alive = np.flatnonzero(self._images[: self._used] >= 0)
        columns = (self._images[alive, None], self._classes[alive, None], self._values[alive])
        return np.concatenate([*columns, self._masks[alive]], axis=1, dtype=np.float64)

    @property
    def visited(self) -> int:
        """Images that were labelled at least once, even if no object was found."""
        return self._visited

    @property
    def class_counts(self) -> np.ndarray:
        """int64 (K,) labels in the bank."""
        alive = self._images[: self._used] >= 0
        return np.bincount(self._classes[: self._used][alive], minlength=self.num_classes)

    def replace(self, packed: np.ndarray) -> None:
        """Replaces the labels of the images in `packed` (see `pack_labels`). An image's last entry
        counts.
        """
        heads = np.flatnonzero(packed[:, 1] < 0)
        for head, end in zip(heads, np.append(heads[1:], len(packed))):
            image, rows = int(packed[head, 0]), packed[head + 1 : end]
            if self._used + len(rows) > len(self._images):
                self._set_rows(self._rows())
            if self._used + len(rows) > len(self._images):
                raise ValueError(f"{len(rows)} labels in one image")
            start, count = self._start[image], self._count[image]
            self._images[start : start + count] = -1
            new = slice(self._used, self._used + len(rows))
            self._images[new], self._classes[new] = image, rows[:, 1]
            self._values[new] = rows[:, 2:_COLUMNS]
            self._masks[new] = rows[:, _COLUMNS:]
            self._start[image], self._count[image] = self._used, len(rows)
            self._used = new.stop
            self._visited += int(self._sizes[image, 0] == 0)
            self._sizes[image] = packed[head, 2:4]

    def instances(self) -> Instances:
        """A copy of the bank's labels, for a snapshot."""
        alive = np.flatnonzero(self._images[: self._used] >= 0)
        images, values = self._images[alive], self._values[alive]
        return Instances.sort(
            values[:, 1:],
            values[:, 0],
            images,
            self._sizes[images],
            self._classes[alive],
            self.num_classes,
            self._masks[alive] if self._masks.shape[1] else None,
        )

    def state(self) -> np.ndarray:
        """The headers of all visited images, then all labels, packed for `load`."""
        seen = np.flatnonzero(self._sizes[:, 0])
        heads = np.zeros((len(seen), self.columns))
        heads[:, 0], heads[:, 1], heads[:, 2:4] = seen, -1, self._sizes[seen]
        return np.concatenate([heads, self._rows()])

    def load(self, state: np.ndarray) -> None:
        """Restores `state()` of a bank of the same images."""
        head = state[:, 1] < 0
        images = state[head, 0].astype(np.int64)
        self._sizes[:] = 0
        self._sizes[images] = state[head, 2:4]
        self._visited = len(images)
        self._set_rows(state[~head])


def pack_batch(pseudo: PseudoLabels, samples: List[Sample]) -> np.ndarray:
    """The selected labels of a batch in original-image coordinates, packed. It takes one transfer
    from the device.

    With masks, the boxes are those around the masks, and labels without any pixel are left out.
    """
    columns = ("scores", "gt_classes", "selected")
    flat = torch.cat(
        [
            torch.cat([_label_boxes(r), *(r.get(name)[:, None].float() for name in columns)], dim=1)
            for r in pseudo.instances
        ]
    ).cpu()
    parts = []
    lengths = [len(row) for row in pseudo.instances]
    for sample, row, own in zip(samples, pseudo.instances, flat.split(lengths)):
        boxes = sample.geometry.boxes_to_original(own[:, :4])
        # A box that clipping to the image made empty cannot be cropped.
        keep = ((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (own[:, 6] > 0)).numpy()
        values = own.numpy()[keep]
        packed: List[np.ndarray] = [boxes.numpy()[keep], values[:, 5], values[:, 4]]
        if row.has("gt_masks"):
            rows = torch.from_numpy(keep).to(row.scores.device).nonzero()[:, 0]
            masks, view_boxes = row.gt_masks.tensor[rows], own[keep, :4].to(row.scores.device)
            packed.append(pack_grids(label_grids(masks, view_boxes, sample.geometry.matrix)))
        parts.append(pack_labels(sample.ref.index, sample.geometry.original_size, *packed))
    return np.concatenate(parts)


def _label_boxes(row: Labels) -> Tensor:
    return tight_boxes(row.gt_masks.tensor) if row.has("gt_masks") else row.gt_boxes.tensor
