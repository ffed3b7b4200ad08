"""Numbers anchors, so that an anchor can be found again in a pass with other padding.

Shapes: L levels, S anchors of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors are numbered level after level, row after row, location after location.

    Attributes:
        sizes: (height, width) of each level's map. per_location: anchors at each location of each
            level.
    """

    sizes: Tuple[Tuple[int, int], ...]
    per_location: Tuple[int, ...]

    @classmethod
    def of(cls, maps: Sequence[Tensor], per_location: Sequence[int]) -> "AnchorGrid":
        """From the maps (n, C, h, w) of each level."""
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
        return cls(sizes, tuple(per_location))

    def find_in(self, other: "AnchorGrid", indices: Tensor) -> Tuple[Tensor, Tensor]:
        """The same anchors in another grid of the same levels, whose maps may be smaller or larger
        at the right and the bottom.

        Args:
            indices: (S,) in this grid.

        Returns:
            (S,) indices in `other`, and (S,) bool, True if it has the location. Elsewhere the index
            is that of some other anchor.
        """
        if self == other:
            return indices, torch.ones_like(indices, dtype=torch.bool)
        ours, theirs = self._table(indices), other._table(indices)
        level = torch.bucketize(indices, ours[0], right=True) - 1
        start, _, width, each = (column[level] for column in ours)
        their_start, their_height, their_width, _ = (column[level] for column in theirs)
        location, anchor = (indices - start) // each, (indices - start) % each
        y, x = location // width, location % width
        inside = (y < their_height) & (x < their_width)
        y, x = torch.minimum(y, their_height - 1), torch.minimum(x, their_width - 1)
        return their_start + (y * their_width + x) * each + anchor, inside

    def _table(self, like: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """First index, height, width and anchors per location of each level."""
        rows, start = [], 0
        for (height, width), each in zip(self.sizes, self.per_location):
            rows.append((start, height, width, each))
            start += height * width * each
        table = torch.tensor(rows, dtype=torch.int64, device=like.device)
        return tuple(column.contiguous() for column in table.unbind(dim=1))  # type: ignore[return-value]
