"""The description of an exported model for programs that run it: `model.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import List

from detectron2.config import CfgNode
from torch import nn

from ssod.errors import UserError

FILE = "model.json"


@dataclass(frozen=True)
class Manifest:
    """The contents of `model.json`; `predict.py` reads them.

    Attributes:
        format: "torchscript" or "onnx". model: the file beside it.
        device: where the model runs; a TorchScript file is bound to it. imports: Python packages
            that must be imported before the file is loaded.
        inputs: what the model takes. outputs: what it returns, in this order, for D detections.
        classes: names by class index. category_ids: their ids in the dataset's COCO JSON.
        input_format: channel order of the input, "BGR" or "RGB".
        pixel_mean, pixel_std: by channel in that order. The model applies them itself.
        min_size, max_size: the image is scaled, keeping its shape, until its short side is
            `min_size`, or less where its long side would exceed `max_size`. 0: not scaled.
        size_divisibility: the model pads its input to a multiple of this.
        mask_threshold: masks are 1 above it.
    """

    format: str
    model: str
    device: str
    imports: List[str]
    inputs: List[str]
    outputs: List[str]
    classes: List[str]
    category_ids: List[int]
    input_format: str
    pixel_mean: List[float]
    pixel_std: List[float]
    min_size: int
    max_size: int
    size_divisibility: int
    mask_threshold: float = 0.5

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def input_facts(cfg: CfgNode, model: nn.Module) -> dict[str, object]:
    """The fields of a `Manifest` that tell how an image becomes the model's input.

    Raises:
        UserError: the images are neither BGR nor RGB.
    """
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise UserError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: only BGR and RGB can be exported to TorchScript and ONNX; use "
            "--format detectron2."
        )
    return {
        "inputs": ["image: float32 (3, H, W), 0 to 255, scaled, any H and W"],
        "input_format": cfg.INPUT.FORMAT,
        "pixel_mean": [float(value) for value in cfg.MODEL.PIXEL_MEAN],
        "pixel_std": [float(value) for value in cfg.MODEL.PIXEL_STD],
        "min_size": int(cfg.INPUT.MIN_SIZE_TEST),
        "max_size": int(cfg.INPUT.MAX_SIZE_TEST),
        "size_divisibility": int(getattr(getattr(model, "backbone", None), "size_divisibility", 0)),
    }
