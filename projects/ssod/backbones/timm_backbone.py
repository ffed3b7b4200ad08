"""timm models as Detectron2 backbones.

Shapes: N images, (N, 3, H, W) in; level i out is (N, C_i, H / stride_i, W / stride_i).
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ssod.backbones.input_statistics import InputConversion
from ssod.errors import UserError


def level_name(stride: int) -> str:
    """As Detectron2's ResNet names the level of this stride: 4 is "res2", 8 "res3", 16 "res4", 32
    "res5".
    """
    return f"res{stride.bit_length() - 1}" if stride.bit_count() == 1 else f"stride{stride}"


class TimmBackbone(Backbone):
    """The feature levels of a timm model.

    Args:
        body: made by `timm.create_model(..., features_only=True)`.
        to_input: from the detector's normalised images to the model's.
        channels_last: whether images and weights are kept channels last, which convolutions on a
            CPU, and on a GPU in half precision, run faster on. Results are the same to rounding.
    """

    def __init__(
        self,
        body: nn.Module,
        to_input: Optional[InputConversion] = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        info: Any = body.feature_info
        strides: Sequence[int] = info.reduction()
        names = [level_name(stride) for stride in strides]
        if len(set(names)) < len(names):
            raise UserError(
                f"MODEL.TIMM.OUT_INDICES: the levels have the strides {', '.join(map(str, strides))}; keep one level of each "
                "stride."
            )
        self.to_input = to_input
        self.channels_last = channels_last
        self.body = body.to(memory_format=torch.channels_last) if channels_last else body
        self._height_first = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self._out_features = names
        self._out_feature_channels = dict(zip(names, info.channels()))
        self._out_feature_strides = dict(zip(names, strides))

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the largest stride."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> Dict[str, Tensor]:
        """(N, 3, H, W), normalised as the config says -> level name to (N, C, H / stride, W /
        stride).
        """
        if self.to_input is not None:
            images = self.to_input(images)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        levels = self.body(images)
        if self._height_first:  # Swin and others give (N, H, W, C)
            levels = [level.permute(0, 3, 1, 2).contiguous() for level in levels]
        return dict(zip(self._out_features, levels))
