"""The branch that predicts how uncertain each side of a box is."""

from __future__ import annotations

from typing import List

import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import Tensor, nn

from ssod.detectors.dense.predictions import DensePredictions


class SideUncertainty(nn.Module):
    """One convolution beside the box regressor.

    Args:
        channels: of the last features before the regressor. anchors: per location.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * anchors, kernel_size=3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, predictions: DensePredictions) -> Tensor:
        """(R, 4) in 0 to 1, in the order of `predictions.flat`."""
        found: List[Tensor] = []
        for group in predictions.groups:
            levels = [permute_to_N_HWA_K(self.conv(level), 4) for level in group.box_features]
            found.append(torch.cat(levels, dim=1).flatten(0, 1).float().sigmoid())
        return torch.cat(found) if found else self.conv.weight.new_zeros(0, 4)
