"""The last pseudo-labels of each unlabelled image, as far as sampling needs them.

Shapes: M rows, one for each (image, class) pair with a pseudo-label; K foreground classes.
"""

from __future__ import annotations

from typing import Dict, Sequence, Tuple

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ssod.structures import PseudoLabels, Sample

# (R, 3) float64 on the CPU: image index, class, score. Class -1: the image was visited and has none.
_Rows = Tensor


class LabelMemory(nn.Module):
    """Per visited image, the highest score of each class among its selected pseudo-labels.

    Eq. 11 takes a maximum over an image's labels that grows with the score, so nothing else of them matters. Held as
    plain Python on the CPU: dense (images x classes) tables would take gigabytes for LVIS and Objects365.
    """

    def __init__(self) -> None:
        super().__init__()
        self._labels: Dict[int, Dict[int, float]] = {}

    @property
    def visited(self) -> int:
        """Images seen so far."""
        return len(self._labels)

    def remember(self, samples: Sequence[Sample], pseudo: PseudoLabels) -> None:
        """Replaces what is known of these images, on every rank by what all ranks have seen."""
        rows = self._pack(samples, pseudo)
        for part in comm.all_gather(rows) if comm.get_world_size() > 1 else [rows]:
            self._store(part)

    @staticmethod
    def _pack(samples: Sequence[Sample], pseudo: PseudoLabels) -> _Rows:
        parts = []
        for sample, row in zip(samples, pseudo.instances):
            if (
                sample.skipped
            ):  # the labels are another image's, which took the place of a broken one
                continue
            kept = row[row.selected]
            found = torch.stack([kept.gt_classes.double(), kept.scores.double()], dim=1)
            found = torch.cat([found, found.new_tensor([[-1.0, 0.0]])])
            image = torch.full_like(found[:, :1], sample.ref.index)
            parts.append(torch.cat([image, found], dim=1))
        return torch.cat(parts).cpu() if parts else torch.zeros(0, 3, dtype=torch.float64)

    def _store(self, rows: _Rows) -> None:
        fresh: Dict[int, Dict[int, float]] = {}
        for image, label, score in rows.tolist():
            labels = fresh.setdefault(int(image), {})
            if label >= 0:
                labels[int(label)] = max(score, labels.get(int(label), 0.0))
        self._labels.update(fresh)

    def rows(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Images (M,) int64, classes (M,) int64 and scores (M,) float32."""
        table = self._table()
        table = table[table[:, 1] >= 0]
        return table[:, 0].long(), table[:, 1].long(), table[:, 2].float()

    def class_image_counts(self, num_classes: int) -> Tensor:
        """(K,) float: images with a pseudo-label of each class."""
        return torch.bincount(self.rows()[1], minlength=num_classes).float()

    def _table(self) -> _Rows:
        found = []
        for image in sorted(self._labels):
            labels = self._labels[image]
            found += [(image, label, labels[label]) for label in sorted(labels)] or [(image, -1, 0)]
        return torch.tensor(found, dtype=torch.float64).reshape(-1, 3)

    def get_extra_state(self) -> Tensor:
        return self._table()

    def set_extra_state(self, state: Tensor) -> None:
        self._labels = {}
        self._store(state)
