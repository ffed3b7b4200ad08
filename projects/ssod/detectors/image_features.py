"""One feature vector for each image, from the backbone of any detector.

Shapes: maps are (1, C, h, w), a vector is (D,), float32.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Side of the thumbnail that stands for an image where the model has no backbone.
_THUMBNAIL = 8


def backbone_of(model: nn.Module) -> Optional[nn.Module]:
    """The part of a detector that sees the whole image first. None if it has no part of that name.

    Of a feature pyramid it is the network below it, whose deepest map has more channels.
    """
    found = next(
        (m for name, m in model.named_modules() if name.split(".")[-1] == "backbone"), None
    )
    inner = getattr(found, "bottom_up", None)
    return inner if isinstance(inner, nn.Module) else found


def feature_maps(output: Any) -> Iterator[Tensor]:
    """The maps (n, C, h, w) in the output of any backbone."""
    if isinstance(output, Tensor):
        if output.ndim == 4 and output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from feature_maps(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from feature_maps(value)
    elif hasattr(output, "tensors"):  # DETR's pairs of a map and its padding
        yield from feature_maps(output.tensors)


class ImageFeatures:
    """Listens to a detector's backbone, as a context manager.

    After each forward pass of one image, `vector` gives the mean of the deepest map over its
    pixels. A model without a backbone is given a thumbnail of the image instead, which still tells
    near-duplicates.
    """

    def __init__(self, model: nn.Module) -> None:
        self._backbone = backbone_of(model)
        self._maps: List[Tensor] = []
        self._handle: Any = None

    def __enter__(self) -> "ImageFeatures":
        if self._backbone is not None:
            self._handle = self._backbone.register_forward_hook(self._listen)
        return self

    def __exit__(self, *reason: Any) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _listen(self, module: nn.Module, args: Any, output: Any) -> None:
        self._maps = list(feature_maps(output))

    def vector(self, image: Tensor) -> np.ndarray:
        """Args: image: the (3, H, W) input of the last forward pass."""
        if self._maps:
            deepest = min(self._maps, key=lambda m: m.shape[-2] * m.shape[-1])
            pooled = deepest[0].float().mean(dim=(1, 2))
        else:
            pooled = F.adaptive_avg_pool2d(image.float(), _THUMBNAIL).flatten()
        self._maps = []
        return torch.nan_to_num(pooled).cpu().numpy().astype(np.float32)
