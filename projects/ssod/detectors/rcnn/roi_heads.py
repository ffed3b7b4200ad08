"""Detectron2's box head, step by step: sampling, prediction, weighted losses, detections.

Shapes: N images, R RoIs over all of them, K foreground classes (class K is background), D box-head
channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.detectors.features import FeatureMaps
from ssod.detectors.rcnn.losses import (
    box_regression_loss,
    foreground_deltas,
    roi_classification_loss,
)
from ssod.detectors.rcnn.stages import BoxStage, box_stage
from ssod.structures import WEIGHT_COLUMNS


@dataclass
class BoxPredictions:
    """The box head's outputs: features (R, D), logits (R, K+1), deltas (R, 4) or (R, 4K), in image
    order.
    """

    features: Tensor
    logits: Tensor
    deltas: Tensor

    def __getitem__(self, rows: slice) -> "BoxPredictions":
        return BoxPredictions(self.features[rows], self.logits[rows], self.deltas[rows])


def classify(roi_heads: BoxStage, maps: FeatureMaps, boxes: Sequence[Boxes]) -> BoxPredictions:
    """Pools boxes from features and predicts them. `boxes` has N `Boxes`, one an image.

    With a cascade it is the first stage, unless a `box_stage` is given. See also `judge_boxes`.
    """
    stage = box_stage(roi_heads)
    features = maps.box_features(stage, boxes)
    logits, deltas = stage.box_predictor(features)
    return BoxPredictions(features, logits.float(), deltas.float())


def sample_rois(
    roi_heads: BoxStage, proposals: List[Instances], targets: List[Instances]
) -> List[Instances]:
    """Detectron2's `label_and_sample_proposals`, with every `gt_*` column set explicitly.

    Detectron2 copies the values of an arbitrary ground truth to a background RoI, and omits the
    columns in an image without ground truth. Here a background RoI has gt_scores 0, gt_index -1 and
    every loss weight 1.

    Returns:
        N `Instances`: proposal_boxes, gt_boxes, gt_classes (K for background), gt_scores, gt_index
        (of the label in its image), gt_<weights>; no masks.
    """
    rois = roi_heads.label_and_sample_proposals(proposals, [_without_masks(t) for t in targets])
    for roi in rois:
        boxes = roi.proposal_boxes.tensor
        if not roi.has("gt_boxes"):
            roi.gt_boxes = Boxes(boxes)
        background = roi.gt_classes == roi_heads.num_classes
        for column in ["gt_scores"] + [f"gt_{name}" for name in WEIGHT_COLUMNS]:
            own = roi.get(column) if roi.has(column) else torch.zeros_like(boxes[:, 0])
            roi.set(column, background_column(column, own, background))
        index = roi.gt_index if roi.has("gt_index") else torch.zeros_like(roi.gt_classes)
        roi.gt_index = index.masked_fill(background, -1)
    return rois


def _without_masks(target: Instances) -> Instances:
    """Leaves out masks, which would be copied for every RoI. `gt_index` names the label instead."""
    fields = {name: value for name, value in target.get_fields().items() if name != "gt_masks"}
    return Instances(target.image_size, **fields)


def background_column(name: str, values: Tensor, background: Tensor) -> Tensor:
    """`values` (R, ...) of a `gt_*` column with those of background RoIs replaced: 1 for a weight,
    else 0.
    """
    neutral = 1.0 if name[len("gt_") :] in WEIGHT_COLUMNS else 0.0
    rows = background.reshape(-1, *[1] * (values.dim() - 1))
    return torch.where(rows, torch.as_tensor(neutral).to(values), values)


def roi_losses(
    roi_heads: BoxStage,
    rois: Sequence[Instances],
    predictions: BoxPredictions,
    cls_weights: Tensor,
    reg_weights: Tensor,
    cls_loss: str,
    gamma: float,
) -> Dict[str, Tensor]:
    """Detectron2's `FastRCNNOutputLayers.losses` with a weight for each RoI, still divided by R.

    Args:
        rois: from `sample_rois`. predictions: of these RoIs. cls_weights, reg_weights: (R,).
        cls_loss, gamma: see `roi_classification_loss`. With a cascade it is the first stage, unless
            a `box_stage` is given.
    """
    predictor = box_stage(roi_heads).box_predictor
    labels = torch.cat([roi.gt_classes for roi in rois])
    count = max(len(labels), 1)
    # A box predictor may bring its own: (R, K+1) logits and (R,) labels -> (R,).
    own_loss = getattr(predictor, "classification_loss", None)
    if own_loss is not None:
        cls = own_loss(predictions.logits, labels)
    else:
        cls = roi_classification_loss(predictions.logits, labels, cls_loss, gamma)
    cls = (cls * cls_weights).sum()
    # Rows of weight 0 are left out, because an infinite loss times 0 is NaN.
    foreground = ((labels < roi_heads.num_classes) & (reg_weights > 0)).nonzero().flatten()
    reg = box_regression_loss(
        torch.cat([roi.proposal_boxes.tensor for roi in rois])[foreground],
        foreground_deltas(predictions.deltas[foreground], labels[foreground]),
        torch.cat([roi.gt_boxes.tensor for roi in rois])[foreground],
        predictor.box2box_transform,
        predictor.box_reg_loss_type,
        predictor.smooth_l1_beta,
    )
    reg = (reg * reg_weights[foreground]).sum()
    losses = {"loss_cls": cls / count, "loss_box_reg": reg / count}
    return {name: loss * predictor.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def detect(
    roi_heads: StandardROIHeads,
    proposals: List[Instances],
    predictions: BoxPredictions,
    score_floor: float,
) -> List[Instances]:
    """Detections in view coordinates: per-class NMS as at test time, every score above
    `score_floor`.

    Boxes that have no area after clipping are dropped. As labels they would have IoU 0 with every
    anchor.
    """
    predictor = roi_heads.box_predictor
    raw = (predictions.logits, predictions.deltas)
    return select_detections(
        predictor,
        predictor.predict_boxes(raw, proposals),
        predictor.predict_probs(raw, proposals),
        [proposal.image_size for proposal in proposals],
        score_floor,
    )


def select_detections(
    predictor: Any,
    boxes: Sequence[Tensor],
    probabilities: Sequence[Tensor],
    sizes: Sequence[Tuple[int, int]],
    score_floor: float,
) -> List[Instances]:
    """Detections of N images from all their boxes.

    Args:
        predictor: with the NMS threshold and the number of detections. boxes: N (r, 4) or (r, 4K).
            probabilities: N (r, K+1). sizes: N (height, width).
    """
    found, _ = fast_rcnn_inference(
        list(boxes),
        list(probabilities),
        list(sizes),
        score_floor,
        predictor.test_nms_thresh,
        predictor.test_topk_per_image,
    )
    return [row[row.pred_boxes.nonempty(threshold=1e-2)] for row in found]
