"""Background of unlabelled images weighted by the teacher's own background score, as a method for
every host.

Shapes: N unlabelled images, R sampled RoIs over all of them, S sampled anchors of one image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.rpn import objectness_of
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext
from ssod.methods.hosts.reliability import soft_background_weights
from ssod.methods.shared.teacher_judgement import judge_rois
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

MODES = ("soft", "ignore")
# Steps between two values of a metric. Each value waits for the GPU.
_SCALAR_PERIOD = 20


@METHOD_REGISTRY.register()
class BackgroundWeights(Method):
    """Weighs background RoIs by the teacher's certainty that they are background.

    "soft": the weight of a background RoI is the teacher's background probability of the same box
    in the weak view, divided by the mean over the image (Soft Teacher). "ignore": the weight is 1
    if that probability is `min_score` or more, otherwise 0. Background anchors have weights of the
    same form, with 1 minus the teacher's objectness.

    Args:
        mode, min_score: see above. rpn: whether anchors are weighted too.
    """

    config_key = "BACKGROUND_WEIGHTS"
    groups = ("weights of background",)
    excludes = ("weights of background", "moved images")
    needs_online_teacher = True
    activity_unit = "|1 - weight| of background RoIs, mean"

    def __init__(self, *, mode: str, min_score: float, rpn: bool) -> None:
        super().__init__()
        node = "SSOD.BACKGROUND_WEIGHTS"
        if mode not in MODES:
            raise UserError(f"{node}.MODE is {mode!r}: use {' or '.join(map(repr, MODES))}.")
        if not 0.0 <= min_score <= 1.0:
            raise UserError(f"{node}.MIN_SCORE is {min_score}: use a score between 0 and 1.")
        self.mode, self.min_score, self.rpn = mode, min_score, rpn
        self._changed: Optional[Tensor] = None  # mean change in the last step, for `activity`

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.BACKGROUND_WEIGHTS = CfgNode()
        node.MODE = "soft"  # or "ignore": background below MIN_SCORE is left out
        node.MIN_SCORE = 0.7  # used by "ignore" only
        node.RPN = True  # anchors too

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {key.lower(): value for key, value in cfg.SSOD.BACKGROUND_WEIGHTS.items()}

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        view = outputs.unlabeled
        if view is None:
            return outputs
        view = view.map_stages(lambda stage: self._weigh_rois(stage, context))
        if self.rpn:
            view = self._weigh_anchors(view, context)
        return replace(outputs, unlabeled=view)

    @torch.no_grad()
    def _weigh_rois(self, view: ViewOutputs, context: StepContext) -> ViewOutputs:
        probabilities = judge_rois(view, context).probabilities
        rows = (view.labels == probabilities.shape[1] - 1).nonzero().flatten()
        scores = probabilities[rows, -1]
        if context.step % _SCALAR_PERIOD == 0 and view.stage == 0:
            mean = scores.sum() / max(len(rows), 1)
            get_event_storage().put_scalar("background_weights/background_score", float(mean))
        weights = self._weights(scores, view.image_index[rows], len(view.rois))
        if view.stage == 0:
            changed = (1 - weights).abs().sum() / max(len(rows), 1)
            # Weights of 1 have rounding errors.
            self._changed = torch.where(changed > 1e-6, changed, 0.0)
        factor = torch.ones_like(view.cls_weights).index_copy(0, rows, weights)
        return replace(view, cls_weights=view.cls_weights * factor)

    @torch.no_grad()
    def _weigh_anchors(self, view: ViewOutputs, context: StepContext) -> ViewOutputs:
        assert context.teacher_outputs is not None
        rpn, maps = context.teacher.proposal_generator, context.teacher_outputs.maps
        anchors = []
        for sampled, objects in zip(view.anchors, objectness_of(rpn, maps, view.anchors)):
            rows = (sampled.labels == 0).nonzero().flatten()
            scores = 1.0 - objects[rows]
            weights = self._weights(scores, torch.zeros_like(rows), 1)
            factor = torch.ones_like(sampled.cls_weights).index_copy(0, rows, weights)
            anchors.append(replace(sampled, cls_weights=sampled.cls_weights * factor))
        return replace(view, anchors=anchors)

    def _weights(self, scores: Tensor, images: Tensor, num_images: int) -> Tensor:
        """Turns (R,) background probabilities of the teacher into (R,) weights."""
        if self.mode == "ignore":
            return (scores >= self.min_score).to(scores.dtype)
        return soft_background_weights(scores, images, num_images)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return 0.0 if pseudo is None or self._changed is None else self._changed

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.hosts.report import scalar_section

        titles = {"background_score": "Teacher's background score of background RoIs"}
        return scalar_section(run, "Background weights", "background_weights", titles)
