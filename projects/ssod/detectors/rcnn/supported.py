"""Whether a model is a Faster R-CNN whose parts are the ones that the step calls."""

from __future__ import annotations

from typing import Any, Optional

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads

from ssod.errors import UserError


def unsupported_part(model: Any) -> Optional[str]:
    """The part of the model that the step does not support; None if all parts are supported."""
    heads = getattr(model, "roi_heads", None)
    rpn: Any = getattr(model, "proposal_generator", None)
    problem = None
    own_forward = any(
        getattr(type(model), name, None) is not getattr(GeneralizedRCNN, name)
        for name in ("forward", "inference")
    )
    if own_forward or not isinstance(model, GeneralizedRCNN):
        problem = f"MODEL.META_ARCHITECTURE {type(model).__name__}"
    elif not isinstance(heads, StandardROIHeads) or isinstance(heads, CascadeROIHeads):
        problem = f"MODEL.ROI_HEADS.NAME {type(heads).__name__}"
    elif type(rpn).forward is not RPN.forward or type(rpn).losses is not RPN.losses:
        problem = f"MODEL.PROPOSAL_GENERATOR.NAME {type(rpn).__name__}"
    elif type(heads.box_predictor).losses is not FastRCNNOutputLayers.losses:
        problem = f"The box predictor {type(heads.box_predictor).__name__}, whose losses the step would not call,"
    elif heads.mask_on or heads.keypoint_on:
        problem = f"MODEL.{'MASK_ON' if heads.mask_on else 'KEYPOINT_ON'}"
    elif getattr(heads.box_predictor, "use_sigmoid_ce", False):
        problem = "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"
    elif getattr(heads, "train_on_pred_boxes", False):
        problem = "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES"
    return problem


def check_supported(model: Any) -> None:
    """Raises `UserError` unless the model is a box-only Faster R-CNN of Detectron2's standard
    parts.
    """
    problem = unsupported_part(model)
    if problem:
        raise UserError(
            f"{problem} is not supported here: use GeneralizedRCNN with StandardROIHeads, boxes only."
        )
