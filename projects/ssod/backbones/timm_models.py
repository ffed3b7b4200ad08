"""Models of timm by name: their facts and their feature levels."""

from __future__ import annotations

import difflib
import logging
from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import nn

from ssod.errors import UserError

logger = logging.getLogger(__name__)

# Strides of the levels that a pyramid is built on, unless OUT_INDICES says otherwise.
_PYRAMID = (4, 8, 16, 32)
# Options that let a model take images of any size: those of ViT, of Swin, and none.
_ANY_SIZE: Tuple[Dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"strict_img_size": False},
    {},
)


def import_timm() -> Any:
    """The library; `UserError` with the command to install it."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"MODEL.TIMM needs timm ({error}): pip install 'ssod[timm]'") from None
    return timm


def create_full(name: str) -> nn.Module:
    """The whole classifier on the meta device.

    It tells tensor names, groups, levels and input statistics.

    Raises:
        UserError: timm has no such model; the message names similar ones.
    """
    timm = import_timm()
    if not name:
        raise UserError("MODEL.TIMM.NAME is empty: name a model of timm, such as resnet50.")
    try:
        with torch.device("meta"):
            return timm.create_model(name)
    except Exception as error:  # timm has no exceptions of its own
        bare = name.split(".", 1)[0]
        near = difflib.get_close_matches(bare, timm.list_models(), n=4)
        tags = timm.list_pretrained(f"{bare}.*") if timm.is_model(bare) else []
        choices = tags[:5] or near
        raise UserError(
            f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} cannot make ({_line(error)})"
            + (f"; did you mean {', '.join(choices)}?" if choices else ": see timm.list_models().")
        ) from None


def default_indices(full: nn.Module) -> Tuple[int, ...]:
    """The last level of each stride 4, 8, 16 and 32 that the model has."""
    strides = _strides(full)
    last = {stride: index for index, stride in enumerate(strides)}
    return tuple(last[stride] for stride in _PYRAMID if stride in last) or (len(strides) - 1,)


def create_features(
    full: nn.Module, name: str, indices: Sequence[int], pretrained: bool, channels: int
) -> nn.Module:
    """The model's feature levels, for images of any size.

    Args:
        full: what `create_full` gave for `name`. indices: into its levels. pretrained: timm fetches
            its weights.
        channels: of the images.

    Raises:
        UserError: it has no such levels, or the weights cannot be fetched.
    """
    timm = import_timm()
    strides = _strides(full)
    wrong = [index for index in indices if not -len(strides) <= index < len(strides)]
    if wrong:
        raise UserError(
            f"MODEL.TIMM.OUT_INDICES {list(indices)}: {name} has the levels 0 to {len(strides) - 1}, of stride "
            f"{', '.join(map(str, strides))}: name some of these."
        )
    options = {
        "features_only": True,
        "out_indices": tuple(sorted(i % len(strides) for i in indices)),
    }
    if channels != 3:
        options["in_chans"] = channels
    data: Any = full.pretrained_cfg
    sizes = _ANY_SIZE if data.get("fixed_input_size") else ({},)
    for size in sizes:
        try:
            with torch.device("meta"):
                _try(timm.create_model(name, **options, **size), name, channels)
            break
        except UserError:
            raise
        except TypeError:  # the model has no such option
            continue
        except Exception as error:
            raise UserError(
                f"MODEL.TIMM.NAME {name} gives no feature levels ({_line(error)}): name another model."
            ) from None
    try:
        return timm.create_model(name, pretrained=pretrained, **options, **size)
    except Exception as error:
        if not pretrained:
            raise
        raise UserError(
            f"MODEL.TIMM.PRETRAINED: timm cannot fetch the weights of {name} ({_line(error)}): name a local file in "
            "MODEL.WEIGHTS, or a package in MODEL.TIMM.WEIGHTS_PACKAGE."
        ) from None


@torch.no_grad()
def _try(body: nn.Module, name: str, channels: int) -> None:
    """Raises `UserError` unless images of another size than the model was made for give levels of
    their strides' sizes.
    """
    info: Any = body.feature_info
    strides = info.reduction()
    last = "NHWC" in str(getattr(body, "output_fmt", ""))
    height, width = 4 * max(strides), 5 * max(strides)
    wrong = ""
    try:
        levels = body.eval()(torch.empty(1, channels, height, width))
    except Exception as error:
        wrong = _line(error)
    else:
        for stride, level in zip(strides, levels):
            found = tuple(level.shape[1:3] if last else level.shape[2:])
            if found != (height // stride, width // stride):
                wrong = f"its level of stride {stride} has {found[0]} x {found[1]} cells for {height} x {width} pixels"
    if wrong:
        raise UserError(
            f"MODEL.TIMM.NAME {name} does not take images of every size ({wrong}): name another model, such as a ResNet, "
            "ConvNeXt, EfficientNet or Swin."
        )


def _strides(full: nn.Module) -> List[int]:
    info: Any = getattr(full, "feature_info", None)
    if not info:
        raise UserError(
            f"MODEL.TIMM.NAME: {type(full).__name__} has no feature levels: name another model."
        )
    return [level["reduction"] for level in info]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
