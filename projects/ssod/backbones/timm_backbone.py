"""timm models as Detectron2 backbones.

Shapes: N images, (N, 3, H, W) in; level i out is (N, C_i, H / stride_i, W / stride_i).
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ssod.backbones.input_statistics import InputConversion
from ssod.errors import UserError

# Strides of the levels that a pyramid is built on, unless OUT_INDICES says otherwise.
_PYRAMID = (4, 8, 16, 32)


def import_timm() -> Any:
    """The library; `UserError` with the command to install it."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"MODEL.TIMM needs timm ({error}): pip install 'ssod[timm]'") from None
    return timm


def create_full(name: str) -> nn.Module:
    """The whole classifier on the meta device, for what it knows: tensor names, groups, levels and input statistics.

    Raises:
        UserError: timm has no such model; the message names similar ones.
    """
    timm = import_timm()
    if not name or not timm.is_model(name.split(".", 1)[0]):
        near = timm.list_models(f"*{name.split('.', 1)[0]}*")[:5] if name else []
        if name and not near:
            import difflib

            near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise UserError(
            f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have"
            + (f"; did you mean {', '.join(near)}?" if near else ": see timm.list_models().")
        )
    with torch.device("meta"):
        return timm.create_model(name)


def default_indices(full: nn.Module) -> List[int]:
    """The last level of each stride 4, 8, 16 and 32 that the model has."""
    info: Any = full.feature_info
    strides = [level["reduction"] for level in info]
    last = {stride: index for index, stride in enumerate(strides)}
    chosen = [last[stride] for stride in _PYRAMID if stride in last]
    return chosen or [len(strides) - 1]


class TimmBackbone(Backbone):
    """The feature levels of a timm model, named as Detectron2's ResNet names levels of the same stride.

    Stride 4 is "res2", 8 "res3", 16 "res4", 32 "res5" (and 2 "res1").

    Args:
        body: made by `timm.create_model(..., features_only=True)`.
        to_input: from the detector's normalised images to the model's.
    """

    def __init__(self, body: nn.Module, to_input: Optional[InputConversion] = None) -> None:
        super().__init__()
        info: Any = body.feature_info
        strides: Sequence[int] = info.reduction()
        names = [f"res{int(math.log2(stride))}" for stride in strides]
        if len(set(names)) < len(names):
            raise UserError(
                f"MODEL.TIMM.OUT_INDICES: the levels have the strides {', '.join(map(str, strides))}; keep one level of each "
                "stride."
            )
        self.to_input = to_input
        self.body = body
        self._out_features = names
        self._out_feature_channels = dict(zip(names, info.channels()))
        self._out_feature_strides = dict(zip(names, strides))

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the largest stride."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> Dict[str, Tensor]:
        """(N, 3, H, W), normalised as the config says -> level name to (N, C, H / stride, W / stride)."""
        if self.to_input is not None:
            images = self.to_input(images)
        return dict(zip(self._out_features, self.body(images)))
