"""Norms and backbones whose results do not depend on a batch's padding.

Shapes: N images, (N, C, h, w) of a level; masks (N, H, W) of the padded images, True inside.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor, nn


class ValidArea:
    """The pixels of the current batch that belong to images. `mask` is None if all do.

    The detector sets it before each pass, and the norms read it.
    """

    def __init__(self) -> None:
        self.mask: Optional[Tensor] = None


def mask_of_level(mask: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W) bool at the resolution (h, w) of a level, by nearest neighbour as in DETR."""
    return F.interpolate(mask[None].float(), size=tuple(size))[0].bool()


class ValidGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics leave out the padding.

    Args:
        area: the pixels that count. The others as in `nn.GroupNorm`.
    """

    def __init__(self, num_groups: int, num_channels: int, area: ValidArea) -> None:
        super().__init__(num_groups, num_channels)
        self.area = area

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        mask = self.area.mask
        if mask is None:
            return super().forward(input)
        inside = mask_of_level(mask, input.shape[-2:])[:, None, None].float()  # (N, 1, 1, h, w)
        grouped = input.float().unflatten(1, (self.num_groups, -1))
        axes = (2, 3, 4)
        count = inside.sum(dim=axes, keepdim=True) * grouped.shape[2]
        mean = (grouped * inside).sum(dim=axes, keepdim=True) / count
        centred = grouped - mean
        variance = (centred.square() * inside).sum(dim=axes, keepdim=True) / count
        normal = (centred * (variance + self.eps).rsqrt()).flatten(1, 2).to(input.dtype)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class BackboneLevels(nn.Module):
    """Takes the place of the backbone of `transformers`, with a Detectron2 backbone inside.

    Args:
        body: the backbone. in_features: names of its outputs, fine to coarse.
    """

    def __init__(self, body: Backbone, in_features: Sequence[str]) -> None:
        super().__init__()
        self.body = body
        self.in_features = list(in_features)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> List[Tuple[Tensor, Tensor]]:
        """(N, 3, H, W), (N, H, W) -> for each level its map, 0 in the padding, and its mask."""
        levels: Dict[str, Tensor] = self.body(pixel_values)
        pairs = []
        for name in self.in_features:
            mask = mask_of_level(pixel_mask, levels[name].shape[-2:])
            pairs.append((levels[name] * mask[:, None], mask))
        return pairs
