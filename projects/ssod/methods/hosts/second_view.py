"""PseCo's second view: images at half their size. Their feature level l-1 replaces level l."""

from __future__ import annotations

from typing import Collection, Dict, List, Sequence, Tuple

import torch.nn.functional as F
from torch import Tensor

from ssod.detectors.features import FeatureGroup, FeatureMaps
from ssod.methods.shared.half_size import level_below


def align_levels(
    maps: FeatureMaps, names: Collection[str], image_sizes: Sequence[Tuple[int, int]]
) -> FeatureMaps:
    """Renames features of half-size images to the full-size levels that have the same stride.

    In pixels of the full-size image, P2 of the half-size image has the stride of P3. So proposals,
    anchors and targets of the full-size image fit unchanged. The finest level has no level below
    it, so its own map is enlarged by 2.

    Args:
        maps: maps of the half-size images. names: wanted levels ("p3", ...). image_sizes: (height,
            width) of the full-size images.
    """
    groups = []
    for group in maps.groups:
        features: Dict[str, Tensor] = {name: _level(group.features, name) for name in names}
        sizes: List[Tuple[int, int]] = [image_sizes[index] for index in group.indices]
        groups.append(FeatureGroup(group.indices, features, group.bottom_up, sizes))
    return FeatureMaps(groups, maps.num_images)


def _level(features: Dict[str, Tensor], name: str) -> Tensor:
    below = level_below(name, features)
    if below:
        return features[below]
    return F.interpolate(features[name], scale_factor=2.0, mode="nearest")
