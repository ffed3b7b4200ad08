"""The initial weights of the published implementations.

`transformers` expects that a checkpoint fills its models. It has no prior in the class bias, and
boxes do not start at their reference points. It starts all matrices alike, and the scales of
BatchNorm around 0.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

# The initial probability of every class.
PRIOR = 0.01
# These start at the values that the library gives them: a star of sampling points, equal weights.
_KEPT = ("sampling_offsets", "attention_weights")


def start_weights(model: nn.Module) -> None:
    """Linear layers from Xavier's uniform distribution, convolutions as PyTorch starts them, norms
    at 1, in place.
    """
    for name, layer in model.named_modules():
        if name.split(".")[-1] in _KEPT:
            continue
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
            layer.reset_parameters()


def start_class_head(head: Any) -> None:
    """(…, hidden) -> (…, K): the bias gives every class the probability `PRIOR`."""
    head.reset_parameters()
    nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))


def start_box_head(head: Any, size: float = 0.0) -> None:
    """The last layer starts at 0, so boxes start at their reference points.

    Args:
        head: with `layers`. size: logit of width and height, where the reference has none.
    """
    for layer in head.layers:
        layer.reset_parameters()
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    nn.init.constant_(head.layers[-1].bias[2:], size)
