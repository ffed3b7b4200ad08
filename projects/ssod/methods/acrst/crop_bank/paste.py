"""Draws crops from the bank and pastes them into strong views, in the loader's workers (ACRST, Eq.
6 and 7).

Shapes: views are uint8 (3, H, W) in the model's channel order; P pasted crops; boxes are XYXY in
pixels of the view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, List, Mapping, NoReturn, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes
from detectron2.structures import Instances as Labels
from torch import Tensor

from ssod.data.augmentation import color_jitter
from ssod.data.mapper import UnreadableImage
from ssod.data.masks import tight_boxes
from ssod.data.snapshots import Snapshot
from ssod.errors import UserError
from ssod.methods.acrst.crop_bank.bank import Instances
from ssod.methods.acrst.crop_bank.crops import CropReader, FileNames, reduction
from ssod.methods.acrst.crop_bank.masks import scale_mask
from ssod.methods.acrst.crop_bank.visibility import hide_pixels, visible_fraction
from ssod.structures import Sample

BANKS = ("labeled", "pseudo")
# The stream that a bank's images belong to.
_STREAM = {"labeled": "labeled", "pseudo": "unlabeled"}
_JITTER_PROBABILITY = 0.8  # as in the strong view


def refuse(key: str, value: Any, advice: str) -> NoReturn:
    """Raises `UserError` for a value of SSOD.CROP_BANK that cannot be used."""
    raise UserError(f"SSOD.CROP_BANK.{key} is {value!r}: {advice}.")


@dataclass(frozen=True)
class PasteSettings:
    """The pasting settings in `SSOD.CROP_BANK`; see `CropBank.add_config`."""

    paste_on: Tuple[str, ...]
    min_instances: int
    max_instances: int
    scale: Tuple[float, float]
    flip_prob: float
    color_jitter: bool
    min_visible_fraction: float
    image_format: str

    def __post_init__(self) -> None:
        if not self.paste_on or set(self.paste_on) - {"labeled", "unlabeled"}:
            refuse("PASTE_ON", self.paste_on, "name 'labeled', 'unlabeled' or both")
        if self.min_instances < 0:
            refuse("MIN_INSTANCES", self.min_instances, "use 0 or more")
        if self.max_instances < self.min_instances:
            refuse("MAX_INSTANCES", self.max_instances, "use MIN_INSTANCES or more")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            refuse("SCALE", self.scale, "use (low, high) with 0 < low <= high")
        if not 0 <= self.flip_prob <= 1:
            refuse("FLIP_PROB", self.flip_prob, "use a number between 0 and 1")
        if not 0 <= self.min_visible_fraction < 1:
            refuse("MIN_VISIBLE_FRACTION", self.min_visible_fraction, "use 0 or more, less than 1")


@dataclass
class Pasted:
    """The labels of the crops pasted into one view, without crops that later ones cover entirely.

    Attributes:
        boxes: (P, 4) float32, whole pixels. classes: (P,) int64. scores: (P,) float32.
        banks: (P,) int64, index in `BANKS` of where it came from.
        covering: (Q, 4) boxes of everything pasted, with those that lost their label; None:
            `boxes`.
        masks: bool (P, H, W), the visible pixels of each, around which `boxes` are tight; None
            where whole rectangles are pasted. covered: bool (H, W), the pixels of everything
            pasted.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    banks: Tensor
    covering: Optional[Tensor] = None
    masks: Optional[Tensor] = None
    covered: Optional[Tensor] = None

    @property
    def occluders(self) -> Tensor:
        """(Q, 4) boxes of all pixels that are no longer the image's own."""
        return self.boxes if self.covering is None else self.covering


# Box, class, score and bank of what was pasted, and its mask in its box.
_Row = Tuple[Tuple[int, int, int, int], int, float, int, Optional[np.ndarray]]


@dataclass(frozen=True)
class Draw:
    """One instance of the bank: its bank (index in `BANKS`), class and row among the bank's
    instances.
    """

    bank: int
    label: int
    row: int


def draw_instance(
    rng: np.random.Generator, banks: Mapping[int, Instances], probabilities: np.ndarray
) -> Optional[Draw]:
    """A class from `probabilities` (K,), then one of its instances, uniformly over all banks; None
    if there is none.
    """
    cumulative = np.cumsum(probabilities)
    class_draw, row_draw = rng.random(2)
    if not cumulative[-1] > 0:
        return None
    label = int(np.searchsorted(cumulative, class_draw * cumulative[-1], side="right"))
    label = min(label, len(cumulative) - 1)
    starts = {bank: instances.offsets[label] for bank, instances in banks.items()}
    counts = {bank: banks[bank].offsets[label + 1] - starts[bank] for bank in banks}
    index = int(row_draw * sum(counts.values()))
    for bank, count in counts.items():
        if index < count:
            return Draw(bank, label, int(starts[bank]) + index)
        index -= int(count)
    return None


class PasteCrops:
    """The view transform; see `ssod.data.mapper.ViewTransform`.

    Args:
        labeled: the labelled bank. probabilities: (K,) of the classes before the first snapshot.
        file_names: of each stream's images.
    """

    def __init__(
        self,
        settings: PasteSettings,
        *,
        labeled: Instances,
        probabilities: np.ndarray,
        file_names: Mapping[str, Union[FileNames, Sequence[str]]],
    ) -> None:
        self.settings = settings
        self.labeled = labeled
        self.probabilities = probabilities
        self.file_names = file_names
        self._read = CropReader()

    def __call__(
        self, sample: Sample, rng: np.random.Generator, snapshot: Optional[Snapshot]
    ) -> Sample:
        chosen = self.settings
        if sample.ref.stream not in chosen.paste_on:
            return sample
        banks, probabilities = {0: self.labeled}, self.probabilities
        if snapshot is not None:
            banks[1] = Instances.from_arrays(snapshot.arrays)
            probabilities = np.asarray(snapshot.arrays["probabilities"])
        strong, skipped = sample.strong.clone(), list(sample.skipped)
        rows: List[_Row] = []
        for _ in range(int(rng.integers(chosen.min_instances, chosen.max_instances + 1))):
            draw = draw_instance(rng, banks, probabilities)
            if draw is None:
                continue
            instances = banks[draw.bank]
            name = self.file_names[_STREAM[BANKS[draw.bank]]][int(instances.images[draw.row])]
            try:
                box, mask = self._paste(strong, sample, rng, instances, draw.row, name)
            except UnreadableImage as error:
                skipped.append((error.file_name, f"{error.reason}; no crop of it is pasted"))
                continue
            rows.append((box, draw.label, float(instances.scores[draw.row]), draw.bank, mask))
        if not rows:
            return replace(sample, skipped=skipped)
        size = (int(strong.shape[1]), int(strong.shape[2]))
        pasted = self._visible(rows) if rows[0][4] is None else self._visible_masks(rows, size)
        changed = replace(
            sample,
            strong=strong,
            extras={**sample.extras, "CropBank": pasted},
            skipped=skipped,
        )
        if sample.instances is not None:
            own = sample.strong_instances
            changed.strong_instances = self._merge(sample.instances if own is None else own, pasted)
        return changed

    def _paste(
        self,
        strong: Tensor,
        sample: Sample,
        rng: np.random.Generator,
        instances: Instances,
        row: int,
        file_name: str,
    ) -> Tuple[Tuple[int, int, int, int], Optional[np.ndarray]]:
        """Pastes one crop into `strong`, in place, and returns its box and its mask in it."""
        chosen = self.settings
        wanted, jitter, flip, x_draw, y_draw = (
            rng.uniform(*chosen.scale),
            rng.random(),
            rng.random(),
            rng.random(),
            rng.random(),
        )
        height, width = (int(side) for side in instances.sizes[row])
        x0, y0, x1, y1 = (round(v) for v in instances.boxes[row].tolist())
        # An object of less than a pixel still shows in one.
        x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        x1, y1 = min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)
        # The source image would have been resized like this one before any other change.
        (a, b, _), (c, d, _) = sample.geometry.matrix.tolist()
        scale = wanted * abs(a * d - b * c) ** 0.5
        view_height, view_width = int(strong.shape[1]), int(strong.shape[2])
        # A crop that does not fit is made smaller. If it were cut, a part would carry the label of
        # the whole.
        scale = min(scale, view_width / (x1 - x0), view_height / (y1 - y0))
        w = min(max(1, round((x1 - x0) * scale)), view_width)
        h = min(max(1, round((y1 - y0) * scale)), view_height)
        crop = self._read(file_name, (x0, y0, x1, y1), (height, width), reduction(scale))
        if crop.shape[:2] != (h, w):
            shrinks = h * w < crop.shape[0] * crop.shape[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            crop = cv2.resize(crop, (w, h), interpolation=how)
        mask = instances.mask(row)
        if mask is not None:
            mask = scale_mask(mask, (h, w))
        if flip < chosen.flip_prob:
            crop = crop[:, ::-1]
            mask = None if mask is None else mask[:, ::-1]
        if chosen.color_jitter and jitter < _JITTER_PROBABILITY:
            crop = color_jitter(crop, rng)
        if chosen.image_format == "RGB":
            crop = crop[:, :, ::-1]
        left = int(x_draw * (view_width - w + 1))
        top = int(y_draw * (view_height - h + 1))
        window = strong.numpy()[:, top : top + h, left : left + w]
        if mask is None:
            window[:] = crop.transpose(2, 0, 1)
        else:
            window[:, mask] = crop[mask].T
        return (left, top, left + w, top + h), mask

    def _visible(self, rows: List[_Row]) -> Pasted:
        """Labels of the crops that later ones leave visible; rows in the order of pasting."""
        kept = []
        for index, row in enumerate(rows):
            # Whole pixels can be counted, which for so few boxes costs less than
            # `visible_fraction`.
            x0, y0, x1, y1 = row[0]
            free = np.ones((y1 - y0, x1 - x0), dtype=bool)
            for (left, top, right, bottom), *_ in rows[index + 1 :]:
                rows_hidden = slice(max(top - y0, 0), max(bottom - y0, 0))
                free[rows_hidden, max(left - x0, 0) : max(right - x0, 0)] = False
            if np.count_nonzero(free) / free.size > self.settings.min_visible_fraction:
                kept.append(row)
        boxes, classes, scores, banks = zip(*(row[:4] for row in kept))
        return Pasted(
            torch.tensor(boxes, dtype=torch.float32),
            torch.tensor(classes),
            torch.tensor(scores, dtype=torch.float32),
            torch.tensor(banks),
            torch.tensor([row[0] for row in rows], dtype=torch.float32),
        )

    def _visible_masks(self, rows: List[_Row], size: Tuple[int, int]) -> Pasted:
        """`_visible` by pixels: labels keep those that no later object covers."""
        covered = np.zeros(size, dtype=bool)
        kept: List[Tuple[int, np.ndarray]] = []
        for index in reversed(range(len(rows))):
            (x0, y0, x1, y1), mask = rows[index][0], rows[index][4]
            assert mask is not None
            whole = np.zeros(size, dtype=bool)
            whole[y0:y1, x0:x1] = mask
            left = whole & ~covered
            covered |= whole
            if np.count_nonzero(left) / mask.sum() > self.settings.min_visible_fraction:
                kept.append((index, left))
        kept.reverse()
        masks = torch.from_numpy(np.stack([left for _, left in kept]))
        _, classes, scores, banks, _ = zip(*(rows[index] for index, _ in kept))
        return Pasted(
            tight_boxes(masks),
            torch.tensor(classes),
            torch.tensor(scores, dtype=torch.float32),
            torch.tensor(banks),
            torch.tensor([row[0] for row in rows], dtype=torch.float32),
            masks,
            torch.from_numpy(covered),
        )

    def _merge(self, own: Labels, pasted: Pasted) -> Labels:
        """A labelled view's own labels that are still visible, and the pasted ones."""
        boxes, merged = own.gt_boxes.tensor, Labels(own.image_size)
        if pasted.masks is None or pasted.covered is None:
            left = visible_fraction(boxes, pasted.occluders)
            kept = left > self.settings.min_visible_fraction
        else:
            boxes, masks, left = hide_pixels(
                boxes, own.gt_masks.tensor, pasted.covered, pasted.occluders
            )
            kept = left > self.settings.min_visible_fraction
            merged.gt_masks = BitMasks(torch.cat([masks[kept], pasted.masks]))
        merged.gt_boxes = Boxes(torch.cat([boxes[kept], pasted.boxes.to(boxes.dtype)]))
        merged.gt_classes = torch.cat([own.gt_classes[kept], pasted.classes])
        return merged
