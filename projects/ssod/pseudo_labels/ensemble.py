"""Several detectors that vote through weighted boxes fusion (Solovyev et al., 2021).

Masks are not fused: an ensemble finds boxes alone.

Shapes: M predictions of one detector on one image; boxes are XYXY in absolute pixels of the image
file.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, Dict, List, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import nn

from ssod.engine.loading import load_detector
from ssod.errors import UserError

logger = logging.getLogger(__name__)


def check_fusion() -> None:
    """Raises `UserError` if the package is missing. Long commands call it at their start."""
    if find_spec("ensemble_boxes") is None:
        raise UserError("Ensembles need the package ensemble-boxes: pip install ensemble-boxes.")


def warn_of_masks(cfg: CfgNode) -> None:
    """Warns if the models predict masks, because the ensemble predicts boxes only."""
    if cfg.MODEL.MASK_ON:
        logger.warning("Weighted boxes fusion merges boxes only: the ensemble predicts no masks.")


def fuse_predictions(predictions: Sequence[Instances], iou_threshold: float) -> Instances:
    """Fuses the detections of several models on one image.

    Boxes of a class that overlap become their score-weighted mean; the score is the mean, times the
    share of models that found the object.

    Args:
        predictions: one `Instances` (pred_boxes, scores, pred_classes) a model, all of the same
            image size.
        iou_threshold: boxes of a class with this IoU or more are the same object.

    Returns:
        `Instances` on the CPU, by descending score.
    """
    check_fusion()
    from ensemble_boxes import weighted_boxes_fusion  # slow to import, because it compiles itself

    height, width = predictions[0].image_size
    scale = np.array([width, height, width, height], dtype=np.float64)
    rows = [found.to("cpu") for found in predictions]
    boxes, scores, classes = weighted_boxes_fusion(
        [np.clip(row.pred_boxes.tensor.double().numpy() / scale, 0.0, 1.0) for row in rows],
        [row.scores.double().numpy() for row in rows],
        [row.pred_classes.numpy() for row in rows],
        iou_thr=iou_threshold,
    )
    fused = Instances((height, width))
    fused.pred_boxes = Boxes(torch.from_numpy(boxes.reshape(-1, 4) * scale).float())
    fused.scores = torch.from_numpy(scores).float()
    fused.pred_classes = torch.from_numpy(classes).long()
    return fused


class EnsembleModel(nn.Module):
    """A model for evaluators: takes Detectron2's inputs and returns fused detections.

    Args:
        models: in eval mode. iou_threshold: see `fuse_predictions`.
    """

    def __init__(self, models: Sequence[nn.Module], *, iou_threshold: float) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold
        self.models = nn.ModuleList(models)
        self.eval()

    @torch.no_grad()
    def forward(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        """As `GeneralizedRCNN.inference`."""
        outputs = [model(inputs) for model in self.models]
        return [
            {
                "instances": fuse_predictions(
                    [output["instances"] for output in image], self.iou_threshold
                )
            }
            for image in zip(*outputs)
        ]


def load_ensemble(cfg: CfgNode, weights: Sequence[str]) -> EnsembleModel:
    """Builds detectors of one config with different weights.

    A full checkpoint gives its teacher.
    """
    if not weights:
        raise UserError("An ensemble needs at least one file of weights: name some.")
    check_fusion()
    warn_of_masks(cfg)
    models = [load_detector(cfg, path, None) for path in weights]
    return EnsembleModel(models, iou_threshold=cfg.SSOD.MULTI_PHASE.FUSION_IOU)


class EnsemblePredictor:
    """Detectron2's `DefaultPredictor` for several models: `EnsemblePredictor(cfg,
    weights)(image)["instances"]`.

    Args:
        cfg: of all the models. weights: files of weights; `MODEL.WEIGHTS` is ignored.
    """

    def __init__(self, cfg: CfgNode, weights: Sequence[str]) -> None:
        self.cfg = cfg.clone()
        self.model = load_ensemble(self.cfg, weights)
        self.aug = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> Dict[str, Instances]:
        """Predicts one image, uint8 (H, W, 3) BGR."""
        if self.cfg.INPUT.FORMAT == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return self.model([{"image": tensor, "height": height, "width": width}])[0]
