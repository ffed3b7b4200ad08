"""Checks that a model is a two-stage detector of the parts that the step knows."""

from __future__ import annotations

from typing import Any, Optional

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads import (
    BaseMaskRCNNHead,
    CascadeROIHeads,
    FastRCNNOutputLayers,
    StandardROIHeads,
)

from ssod.detectors.rcnn.stages import box_stage, is_cascade, stage_count
from ssod.errors import UserError


def unsupported_part(model: Any) -> Optional[str]:
    """The part of the model that the step does not support; None if all parts are supported."""
    heads = getattr(model, "roi_heads", None)
    rpn: Any = getattr(model, "proposal_generator", None)
    own_forward = any(
        getattr(type(model), name, None) is not getattr(GeneralizedRCNN, name)
        for name in ("forward", "inference")
    )
    if own_forward or not isinstance(model, GeneralizedRCNN):
        return f"MODEL.META_ARCHITECTURE {type(model).__name__}"
    if not isinstance(heads, StandardROIHeads) or _own_cascade(heads):
        return f"MODEL.ROI_HEADS.NAME {type(heads).__name__}"
    if type(rpn).forward is not RPN.forward or type(rpn).losses is not RPN.losses:
        return f"MODEL.PROPOSAL_GENERATOR.NAME {type(rpn).__name__}"
    for stage in range(stage_count(heads)):
        predictor = box_stage(heads, stage).box_predictor
        if type(predictor).losses is not FastRCNNOutputLayers.losses:
            return f"The box predictor {type(predictor).__name__}, whose losses the step would not call,"
        if getattr(predictor, "use_sigmoid_ce", False):
            return "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"
    if heads.keypoint_on:
        return "MODEL.KEYPOINT_ON"
    if heads.mask_on and _own_masks(heads):
        return f"MODEL.ROI_MASK_HEAD.NAME {type(heads.mask_head).__name__}"
    if getattr(heads, "train_on_pred_boxes", False):
        return "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES"
    return None


def _own_cascade(heads: Any) -> bool:
    """Whether a cascade overrides the way through its stages."""
    names = ("_forward_box", "_run_stage", "_match_and_label_boxes")
    return is_cascade(heads) and any(
        getattr(type(heads), name) is not getattr(CascadeROIHeads, name) for name in names
    )


def _own_masks(heads: Any) -> bool:
    """Whether the masks' loss is not Detectron2's, or their features are not pooled."""
    own = not isinstance(heads.mask_head, BaseMaskRCNNHead)
    own = own or type(heads.mask_head).forward is not BaseMaskRCNNHead.forward
    own = own or type(heads)._forward_mask is not StandardROIHeads._forward_mask
    return own or heads.mask_pooler is None


def check_supported(model: Any) -> None:
    """Raises `UserError` unless the model is made of Detectron2's standard parts."""
    problem = unsupported_part(model)
    if problem:
        raise UserError(
            f"{problem} is not supported here: use GeneralizedRCNN with StandardROIHeads or CascadeROIHeads."
        )
