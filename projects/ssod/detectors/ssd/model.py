"""torchvision's SSD as a Detectron2 meta-architecture.

Shapes: N images, A default boxes of an image, K classes. torchvision counts the background as class
0 and the others from 1; outside of `ssd` classes are Detectron2's, 0 to K-1.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from ssod.config import CLASS_KEYS
from ssod.errors import UserError

CLASS_KEYS["SSD"] = "MODEL.SSD.NUM_CLASSES"
_MODELS = {
    "ssd300_vgg16": detection.ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": detection.ssdlite320_mobilenet_v3_large,
}
# How many of VGG-16's layers torchvision's SSD keeps in `features`; the others begin `extra`.
_VGG_FEATURES = 23


@dataclass
class Predictions:
    """The heads' outputs for N images.

    Attributes:
        logits: (N, A, K+1), background first. deltas: (N, A, 4). anchors: (A, 4) on the squashed
            image. boxes: of each image's labels, (M, 4) on the squashed image.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    boxes: List[Tensor]


class Levels(nn.Module):
    """Outputs of a Detectron2 backbone in the form that torchvision's SSD needs.

    Args:
        body: the backbone. names: of its outputs, fine to coarse.
    """

    def __init__(self, body: Backbone, names: Sequence[str]) -> None:
        super().__init__()
        self.body, self.names = body, tuple(names)
        shapes = body.output_shape()
        self.out_channels = [shapes[name].channels for name in self.names]

    def forward(self, images: Tensor) -> Dict[str, Tensor]:
        """(N, 3, SIZE, SIZE) -> (N, C, h, w) by level."""
        found = self.body(images)
        return OrderedDict((name, found[name]) for name in self.names)


@META_ARCH_REGISTRY.register()
class SSD(nn.Module):
    """Detectron2's inputs and outputs around an SSD of torchvision.

    Args:
        ssd: it normalises images in 0..1 and squashes them to its size. num_classes: K.
        pixel_mean, pixel_std: for 0..255, a number a channel. input_format: "BGR" or "RGB".
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        ssd: nn.Module,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
    ) -> None:
        super().__init__()
        self.ssd: Any = ssd
        self.num_classes = num_classes
        self.input_format = input_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        """Raises `UserError` for a name or levels that do not exist."""
        node = cfg.MODEL.SSD
        arguments = {
            "num_classes": node.NUM_CLASSES + 1,
            "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
            "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
            "score_thresh": node.SCORE_THRESH_TEST,
            "nms_thresh": node.NMS_THRESH_TEST,
            "detections_per_img": cfg.TEST.DETECTIONS_PER_IMAGE,
            "iou_thresh": node.IOU_THRESHOLD,
            "topk_candidates": node.TOPK_CANDIDATES_TEST,
            "positive_fraction": node.POSITIVE_FRACTION,
        }
        if node.NAME in _MODELS:
            ssd = _MODELS[node.NAME](weights=None, weights_backbone=None, **arguments)
        elif node.NAME:
            raise UserError(
                f"MODEL.SSD.NAME is {node.NAME!r}: use {' or '.join(_MODELS)}, or '' for the backbone of MODEL.BACKBONE."
            )
        else:
            ssd = _on_backbone(cfg, arguments)
        return {
            "ssd": ssd,
            "num_classes": node.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    @property
    def backbone(self) -> nn.Module:
        """The part that sees the whole image first."""
        return self.ssd.backbone

    def rename_weights(self, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Weights of torchvision's SSD, or of its VGG-16, under this model's names; other weights
        as they are.
        """
        if any(name.startswith("head.classification_head.") for name in weights):
            return {f"ssd.{name}": value for name, value in weights.items()}
        own = {}
        for name, value in weights.items():
            found = re.fullmatch(r"features\.(\d+)\.(weight|bias)", name)
            if found and hasattr(self.ssd.backbone, "extra"):
                index = int(found[1])
                part = f"features.{index}"
                if index >= _VGG_FEATURES:
                    part = f"extra.0.{index - _VGG_FEATURES}"
                name = f"ssd.backbone.{part}.{found[2]}"
            own[name] = value
        return own

    # ---------------------------------------------------------------- Detectron2's interface

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> Any:
        """Training: a dict of losses. Eval: a list of {"instances": `Instances`}.

        Args:
            batched_inputs: dicts with "image", uint8 (3, H, W), and in training "instances";
                "height" and "width" of the result, if they differ from the image's.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = []
        for entry in batched_inputs:
            given = entry["instances"].to(self.device)
            boxes = given.gt_boxes.tensor
            targets.append({"boxes": boxes, "labels": given.gt_classes + 1})
        losses = self.ssd(self.images(entry["image"] for entry in batched_inputs), targets)
        return {"loss_cls": losses["classification"], "loss_box_reg": losses["bbox_regression"]}

    def inference(
        self, batched_inputs: List[Dict[str, Any]], do_postprocess: bool = True
    ) -> List[Any]:
        """Detections, in pixels of "height" and "width" if `do_postprocess`."""
        images = [entry["image"] for entry in batched_inputs]
        results = []
        for entry, image, found in zip(batched_inputs, images, self.ssd(self.images(images))):
            size = (int(image.shape[-2]), int(image.shape[-1]))
            instances = Instances(size)
            instances.pred_boxes = Boxes(found["boxes"])
            instances.scores = found["scores"]
            instances.pred_classes = found["labels"] - 1
            instances.pred_boxes.clip(size)
            if not do_postprocess:
                results.append(instances)
                continue
            wanted = entry.get("height", size[0]), entry.get("width", size[1])
            results.append({"instances": detector_postprocess(instances, *wanted)})
        return results

    # ---------------------------------------------------------------- its parts

    def images(self, images: Any) -> List[Tensor]:
        """float (3, H, W) in 0..1 on the model's device."""
        return [image.to(self.device).float() / 255 for image in images]

    def predict(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Predictions:
        """The heads' outputs in training, in one pass.

        Args:
            images: N uint8 (3, H, W). boxes: N (M, 4) in their pixels.
        """
        targets = [{"boxes": own} for own in boxes]
        batch, moved = self.ssd.transform(self.images(images), targets)
        features = list(self.ssd.backbone(batch.tensors).values())
        found = self.ssd.head(features)
        anchors = self.ssd.anchor_generator(batch, features)[0]
        own = [target["boxes"] for target in moved]
        return Predictions(
            found["cls_logits"].float(), found["bbox_regression"].float(), anchors, own
        )


def _on_backbone(cfg: CfgNode, arguments: Dict[str, Any]) -> nn.Module:
    node = cfg.MODEL.SSD
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    unknown = [name for name in node.IN_FEATURES if name not in shapes]
    if unknown:
        raise UserError(
            f"MODEL.SSD.IN_FEATURES names {unknown[0]!r}, and {cfg.MODEL.BACKBONE.NAME} gives {', '.join(shapes)}."
        )
    if len(node.ASPECT_RATIOS) != len(node.IN_FEATURES):
        raise UserError(
            f"MODEL.SSD.ASPECT_RATIOS has {len(node.ASPECT_RATIOS)} lists and IN_FEATURES {len(node.IN_FEATURES)} levels: "
            "give one list a level."
        )
    least, most = _scales(node.SCALES)
    anchors = DefaultBoxGenerator(
        [list(ratios) for ratios in node.ASPECT_RATIOS], min_ratio=least, max_ratio=most
    )
    size = (node.SIZE, node.SIZE)
    return detection.ssd.SSD(Levels(backbone, node.IN_FEATURES), anchors, size, **arguments)


def _scales(values: Sequence[float]) -> Tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] < values[1] <= 1:
        raise UserError(
            f"MODEL.SSD.SCALES is {tuple(values)}: give the smallest and the largest share of the image's side, 0 < a < b <= 1."
        )
    return values[0], values[1]
