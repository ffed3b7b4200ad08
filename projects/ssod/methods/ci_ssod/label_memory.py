"""Keeps the part of each unlabelled image's last pseudo-labels that sampling needs.

Shapes: M rows, one for each (image, class) pair with a pseudo-label; K foreground classes.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ssod.structures import PseudoLabels, Sample

# Keys (R,) int64 and scores (R,) float32 on the CPU. A key is `image * (K + 1) + slot`. Slot 0 says
# that the image was visited. It is there once for each visited image. Slot c + 1 says that the
# image has a label of class c.
_Rows = Tuple[Tensor, Tensor]


class LabelMemory(nn.Module):
    """Keeps, for each visited image, the highest score of each class among its selected
    pseudo-labels.

    Eq. 11 takes a maximum that grows with the score, so only the highest score of each class
    matters. A row takes 12 bytes, so LVIS and Objects365 need about 100 MB. A table of images x
    classes would take gigabytes. Visits are collected, and merged when they are read.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._slots = num_classes + 1
        self._rows: _Rows = (torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        self._visits: List[_Rows] = []

    @property
    def visited(self) -> int:
        """Images seen so far."""
        return int((self._merged()[0] % self._slots == 0).sum())

    def remember(self, samples: Sequence[Sample], pseudo: PseudoLabels) -> None:
        """Replaces, on every rank, the stored labels of the images that any rank saw."""
        rows = self._pack(samples, pseudo)
        parts = comm.all_gather(rows) if comm.get_world_size() > 1 else [rows]
        self._visits.append(_join(parts))

    def _pack(self, samples: Sequence[Sample], pseudo: PseudoLabels) -> _Rows:
        parts: List[_Rows] = []
        for sample, row in zip(samples, pseudo.instances):
            kept = row[row.selected]
            slots = torch.cat([kept.gt_classes.new_zeros(1), kept.gt_classes + 1]).cpu()
            scores = torch.cat([kept.scores.new_zeros(1), kept.scores]).float().cpu()
            parts.append((sample.ref.index * self._slots + slots, scores))
        return _join(parts)

    def _merged(self) -> _Rows:
        """All rows in the order of their keys. Each image has the rows of its last visit."""
        if self._visits:
            fresh = self._last_visits()
            old, scores = self._rows
            kept = ~torch.isin(old // self._slots, fresh[0] // self._slots)
            keys, scores = _join([(old[kept], scores[kept]), fresh])
            keys, order = keys.sort()
            self._rows, self._visits = (keys, scores[order]), []
        return self._rows

    def _last_visits(self) -> _Rows:
        """The rows of images that were visited since the last merge, from their last visit. Each
        key has its best score.
        """
        keys, scores = _join(self._visits)
        lengths = torch.tensor([len(visit) for visit, _ in self._visits])
        visit = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        images, image = torch.unique(keys // self._slots, return_inverse=True)
        last = torch.zeros_like(images).scatter_reduce_(0, image, visit, "amax")
        kept = visit == last[image]
        keys, place = torch.unique(keys[kept], return_inverse=True)
        return keys, torch.zeros(len(keys)).scatter_reduce_(0, place, scores[kept], "amax")

    def rows(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Images (M,) int64, classes (M,) int64 and scores (M,) float32."""
        keys, scores = self._merged()
        labels = keys % self._slots > 0
        keys = keys[labels]
        return keys // self._slots, keys % self._slots - 1, scores[labels]

    def class_image_counts(self) -> Tensor:
        """(K,) float: images with a pseudo-label of each class."""
        return torch.bincount(self.rows()[1], minlength=self._slots - 1).float()

    def get_extra_state(self) -> Tensor:
        # Keys and scores go into one tensor. Keys are exact in float64 up to 2 ** 53.
        keys, scores = self._merged()
        return torch.stack([keys.double(), scores.double()], dim=1)

    def set_extra_state(self, state: Tensor) -> None:
        self._rows, self._visits = (state[:, 0].long(), state[:, 1].float()), []


def _join(parts: Sequence[_Rows]) -> _Rows:
    if not parts:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return torch.cat([keys for keys, _ in parts]), torch.cat([scores for _, scores in parts])
