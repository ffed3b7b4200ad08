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
from ssod.methods.base import StepContext

_KEY = "teacher_judgement"


@dataclass
class Judgement:
    """`predictions`: the box head's outputs.

    `probabilities`: (R, K+1), the last column is background.
    """

    predictions: BoxPredictions
    probabilities: Tensor


@torch.no_grad()
def judge_rois(view: ViewOutputs, context: StepContext) -> Judgement:
    """The teacher's predictions for the RoIs of `view`, computed once a step for all methods."""
    known = context.shared.get(_KEY)
    if known is not None:
        return known
    assert context.teacher_outputs is not None
    heads = context.teacher.roi_heads
    boxes = [roi.proposal_boxes for roi in view.rois]
    predictions = classify(heads, context.teacher_outputs.maps, boxes)
    predictor = heads.box_predictor  # softmax, or EQL v2's sigmoids
    parts = predictor.predict_probs((predictions.logits, predictions.deltas), boxes)
    empty = predictions.logits[:0].float()
    context.shared[_KEY] = Judgement(predictions, torch.cat([empty, *parts]))
    return context.shared[_KEY]
