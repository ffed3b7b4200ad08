"""The positive-unlabelled classifier: a detector's backbone and one linear unit.

Shapes: n images, (n, 3, S, S).

The unit's inputs are the mean and the maximum of every map that the backbone gives to the detector
(p2 to p6 of a pyramid). The mean of the coarsest stage alone, as in image classification, misses
small objects.

These inputs are standardised. With a prior below 1/2, the risk first pushes all logits down
together. Features with a common mean, such as maxima, would reach the flat part of the sigmoid loss
in a few steps and stay there.
"""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.engine.loading import load_detector
from ssod.errors import UserError

logger = logging.getLogger(__name__)


class PUClassifier(nn.Module):
    """g(x): one logit per image, positive if the image resembles the labelled ones.

    Args:
        detector: any Detectron2 model with a `backbone`.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        backbone = getattr(detector, "backbone", None)
        if backbone is None:
            raise UserError(
                f"MODEL.META_ARCHITECTURE {type(detector).__name__} has no backbone to classify images with: "
                "use a detector with a backbone."
            )
        self.body = backbone
        channels = sum(shape.channels for shape in backbone.output_shape().values())
        self.norm = nn.BatchNorm1d(2 * channels, affine=False)
        self.linear = nn.Linear(2 * channels, 1)
        nn.init.constant_(self.linear.weight, 0.0)
        nn.init.constant_(self.linear.get_parameter("bias"), 0.0)
        self.register_buffer("pixel_mean", detector.get_buffer("pixel_mean").clone(), False)
        self.register_buffer("pixel_std", detector.get_buffer("pixel_std").clone(), False)

    def forward(self, images: Tensor) -> Tensor:
        """(n,) logits of uint8 images."""
        mean, std = self.get_buffer("pixel_mean"), self.get_buffer("pixel_std")
        maps = self.body((images.float() - mean) / std).values()
        pooled = [m.mean(dim=(2, 3)) for m in maps] + [m.amax(dim=(2, 3)) for m in maps]
        return self.linear(self.norm(torch.cat(pooled, dim=1))).squeeze(1)


def build_classifier(cfg: CfgNode) -> PUClassifier:
    """Builds the classifier from the config's detector. `MODEL.WEIGHTS` is a detector that training
    wrote, or a published backbone.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        logger.warning(
            "MODEL.WEIGHTS is empty, so the classifier starts from random weights: name the detector that was trained "
            "on the labelled images."
        )
        return PUClassifier(build_model(cfg)).to(cfg.MODEL.DEVICE)
    if SSODCheckpointer(nn.Identity()).load_file(path).get("matching_heuristics"):
        detector = build_model(cfg)
        SSODCheckpointer(detector).load(path, checkpointables=[])
    else:
        detector = load_detector(cfg, path, None)
    return PUClassifier(detector).to(cfg.MODEL.DEVICE)
