"""Two-stage detectors: Faster, Cascade and Mask R-CNN, with or without FPN."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, Tuple
from unittest import mock

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import cascade_rcnn, fast_rcnn, keypoint_head, mask_head
from torch import Tensor, nn

from ssod.detectors.exporting import FlatDetector, exports
from ssod.errors import UserError


class FlatRCNN(FlatDetector):
    """A `GeneralizedRCNN` without its scaling of boxes to the original image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if getattr(model.roi_heads, "mask_on", False):
            self.outputs += ("masks",)

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        with _traceable():
            found = self.model.inference([{"image": image}], do_postprocess=False)[0]
        boxes, classes = found.pred_boxes.tensor, found.pred_classes.to(torch.int64)
        masks = (found.pred_masks[:, 0],) if "masks" in self.outputs else ()
        return (boxes, found.scores, classes, *masks)


@exports(GeneralizedRCNN)
def flat_rcnn(model: nn.Module) -> FlatDetector:
    """Raises `UserError` for segmentation, rotated boxes and keypoints."""
    obstacles = {
        "PanopticFPN's segmentation": isinstance(model, PanopticFPN),
        "Rotated boxes (RRPN)": isinstance(model.proposal_generator, RRPN),
        "Keypoints (MODEL.KEYPOINT_ON)": getattr(model.roi_heads, "keypoint_on", False),
    }
    for name, there in obstacles.items():
        if there:
            raise UserError(f"{name}: no export to TorchScript or ONNX: use --format detectron2.")
    return FlatRCNN(model)


class _Unscaled:
    """Stands for Cascade R-CNN's scaling of gradients, which does nothing without gradients."""

    @staticmethod
    def apply(features: Tensor, scale: float) -> Tensor:
        return features


@contextmanager
def _traceable() -> Iterator[None]:
    """Lets a trace of Detectron2's parts hold for any number of boxes.

    Python's `len` of boxes becomes a constant in a trace. Their `__len__` gives the traced number.
    """

    def traced_length(value: Any) -> Any:
        return value.__len__()

    with ExitStack() as stack:
        for module in (fast_rcnn, mask_head, keypoint_head):
            stack.enter_context(mock.patch.object(module, "len", traced_length, create=True))
        stack.enter_context(mock.patch.object(cascade_rcnn, "_ScaleGradient", _Unscaled))
        yield
