"""A dense detector's predictions for images of any size.

Shapes: N images, n of them in one pass, L locations of one image (every anchor of every level
counts), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.structures import Boxes
from torch import Tensor

from ssod.detectors.anchor_grid import AnchorGrid
from ssod.detectors.features import FeatureMaps


@dataclass
class DenseGroup:
    """Predictions of images that went through the model together.

    Attributes:
        indices: which images, ascending. image_sizes: (height, width) of each before padding.
        grid: how the locations are numbered. anchors: (L, 4).
        logits: (n, L, K), one sigmoid a class. deltas: (n, L, 4).
        centerness: (n, L) logits of FCOS, else None.
        box_features: last features before `deltas`, (n, C, h, w) of each level.
    """

    indices: List[int]
    image_sizes: List[Tuple[int, int]]
    grid: AnchorGrid
    anchors: Tensor
    logits: Tensor
    deltas: Tensor
    centerness: Optional[Tensor]
    box_features: List[Tensor]

    def level_lengths(self) -> List[int]:
        """Locations of each level; they add up to L."""
        return [h * w * each for (h, w), each in zip(self.grid.sizes, self.grid.per_location)]

    def rows(self, part: slice, indices: List[int]) -> "DenseGroup":
        """Some of the images, renumbered. The tensors are views, not copies."""
        return DenseGroup(
            indices,
            self.image_sizes[part],
            self.grid,
            self.anchors,
            self.logits[part],
            self.deltas[part],
            None if self.centerness is None else self.centerness[part],
            [level[part] for level in self.box_features],
        )


@dataclass
class DensePredictions:
    """Predictions of N images; `groups` cover them without overlap.

    Flat tensors of a stream (`DenseOutputs.rows`) have the groups' images one after another.
    """

    groups: List[DenseGroup]

    def select(self, start: int, stop: int) -> "DensePredictions":
        """The predictions of images start..stop-1, renumbered from 0."""
        groups = []
        for group in self.groups:
            found = [row for row, index in enumerate(group.indices) if start <= index < stop]
            if found:
                part = slice(found[0], found[-1] + 1)  # indices ascend
                groups.append(group.rows(part, [i - start for i in group.indices[part]]))
        return DensePredictions(groups)

    def image(self, index: int) -> DenseGroup:
        """The predictions of one image, as a group of one."""
        for group in self.groups:
            if index in group.indices:
                row = group.indices.index(index)
                return group.rows(slice(row, row + 1), [0])
        raise IndexError(index)

    def flat(self, name: str) -> Tensor:
        """An attribute of all images, (R, ...) over all locations of all of them."""
        return torch.cat([getattr(group, name).flatten(0, 1) for group in self.groups])


def predict(model: DenseDetector, maps: FeatureMaps, num_outputs: int) -> DensePredictions:
    """Applies the head to features.

    Args:
        num_outputs: of the head for each level; the third, if there is one, is the centerness.
    """
    groups = []
    for group in maps.groups:
        levels = [group.features[name] for name in model.head_in_features]
        before: List[Tensor] = []
        handle = model.head.bbox_subnet.register_forward_hook(
            lambda module, args, output: before.append(output)
        )
        try:
            outputs: Sequence[List[Tensor]] = model.head(levels)
        finally:
            handle.remove()
        assert len(outputs) == num_outputs
        joined: List[Any] = [
            torch.cat([permute_to_N_HWA_K(level, size).float() for level in output], dim=1)
            for output, size in zip(outputs, (model.num_classes, 4, 1))
        ]
        per_location = [level.shape[1] // 4 for level in outputs[1]]
        groups.append(
            DenseGroup(
                group.indices,
                group.image_sizes,
                AnchorGrid.of(levels, per_location),
                Boxes.cat(model.anchor_generator(levels)).tensor,
                joined[0],
                joined[1],
                joined[2].squeeze(2) if num_outputs > 2 else None,
                before,
            )
        )
    return DensePredictions(groups)
