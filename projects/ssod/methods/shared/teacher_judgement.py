"""The teacher's predictions, in the weak view, for the student's RoIs of the strong view.

Both views have the same geometry, so the student's boxes are valid in the teacher's maps.
Shapes: R RoIs of all unlabelled images, K foreground classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.roi_heads import BoxPredictions, classify
from ssod.detectors.rcnn.stages import box_stage
from ssod.methods.base import StepContext

_KEY = "teacher_judgement"


@dataclass
class Judgement:
    """`predictions`: the box head's outputs. `probabilities`: (R, K+1), background is the last
    column.
    """

    predictions: BoxPredictions
    probabilities: Tensor


@torch.no_grad()
def judge_rois(view: ViewOutputs, context: StepContext) -> Judgement:
    """The teacher's predictions for the RoIs of `view`, computed once per step for all methods.

    The teacher's head of the same stage judges the RoIs of a cascade's stage.
    """
    key = f"{_KEY}/{view.stage}" if view.stage else _KEY
    known = context.shared.get(key)
    if known is not None:
        return known
    assert context.teacher_outputs is not None
    heads = box_stage(context.teacher.roi_heads, view.stage)
    boxes = [roi.proposal_boxes for roi in view.rois]
    predictions = classify(heads, context.teacher_outputs.maps, boxes)
    predictor = heads.box_predictor  # softmax, or EQL v2's sigmoids
    parts = predictor.predict_probs((predictions.logits, predictions.deltas), boxes)
    empty = predictions.logits[:0].float()
    context.shared[key] = Judgement(predictions, torch.cat([empty, *parts]))
    return context.shared[key]
