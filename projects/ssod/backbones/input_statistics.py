"""Converts images from the config's normalisation to the one that the backbone's weights expect."""

from __future__ import annotations

import logging
from typing import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class InputConversion(nn.Module):
    """Undoes the config's normalisation and applies the model's own.

    Channels are swapped if their orders differ.

    The detector has already computed (x - PIXEL_MEAN) / PIXEL_STD, in the order of INPUT.FORMAT.
    Each channel of the result is an affine function of one of these channels.

    Args:
        given_mean, given_std: of the config, for 0..255, in its channel order. mean, std: of the
            model, for 0..255, RGB.
        bgr: whether the config's images are BGR.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        given_mean: Sequence[float],
        given_std: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool,
    ) -> None:
        super().__init__()
        order = -1 if bgr else 1
        theirs_mean = torch.tensor(list(given_mean)[::order], dtype=torch.float64)
        theirs_std = torch.tensor(list(given_std)[::order], dtype=torch.float64)
        ours_mean = torch.tensor(list(mean), dtype=torch.float64)
        ours_std = torch.tensor(list(std), dtype=torch.float64)
        scale, shift = theirs_std / ours_std, (theirs_mean - ours_mean) / ours_std
        self.swap = bgr
        # They follow from the config and the model's name, so they are not in the state dict.
        self.register_buffer("scale", scale.float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(-1, 1, 1), persistent=False)
        self.identity = not bgr and bool(
            torch.allclose(scale, torch.ones_like(scale), atol=1e-4)
            and torch.allclose(shift, torch.zeros_like(shift), atol=1e-3)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) as the detector normalised them -> the same, RGB, with the model's
        statistics.
        """
        if self.identity:
            return images
        if self.swap:
            images = images.flip(1)
        return images * self.scale + self.shift


def build_input_conversion(
    cfg: CfgNode, *, name: str, mean: Sequence[float], std: Sequence[float]
) -> InputConversion:
    """The conversion from `cfg` to a model's own statistics.

    It warns if the config sets others, which are then ignored.

    Args:
        name: the model's, for messages. mean, std: for images in 0..1, RGB, as timm gives them.
    """
    bgr = cfg.INPUT.FORMAT == "BGR"
    mean, std = [255.0 * value for value in mean], [255.0 * value for value in std]
    given_mean, given_std = list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)
    order = -1 if bgr else 1
    plain = get_cfg()
    untouched = (given_mean, given_std) == (
        list(plain.MODEL.PIXEL_MEAN),
        list(plain.MODEL.PIXEL_STD),
    )
    far = max(
        abs(a - b) for a, b in zip(given_mean[::order] + given_std[::order], mean + std)  # of 255
    )
    if not untouched and far > 1.0:
        logger.warning(
            f"MODEL.PIXEL_MEAN {given_mean} and PIXEL_STD {given_std} contradict {name}, whose weights expect RGB images "
            f"with mean {_short(mean)} and standard deviation {_short(std)}: the model's own are used. Leave the two keys "
            "out."
        )
    return InputConversion(given_mean=given_mean, given_std=given_std, mean=mean, std=std, bgr=bgr)


def _short(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
