"""The base class of methods that change the class and score of the teacher's labels.

Shapes: M labels of all images, K foreground classes, D box-head channels.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.structures import Instances
from torch import Tensor

from ssod.detectors.rcnn.cascade import judge_boxes
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import InertPeriod, Method, StepContext
from ssod.methods.selection import check_rpn_threshold, rpn_masks
from ssod.methods.shared.class_thresholds import first_step_after
from ssod.structures import PseudoLabels


@dataclass
class Labelled:
    """The teacher's class distributions and features of its own labels in the weak view.

    Attributes:
        probabilities: (M, K) of the foreground classes. Background has the rest. features: (M, D).
        changed: number of labels that were newly selected, newly left out or got another class.
    """

    probabilities: Tensor
    features: Tensor
    changed: Tensor


def relabelled(
    row: Instances, distribution: Tensor, nms_threshold: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """The most probable class of each label of one image.

    Labels of different classes may have the same box. If their classes now agree, only the best
    label is kept.

    Args:
        row: `Instances` with `gt_boxes`. distribution: (M, K). nms_threshold: two boxes with at
            least this IoU are the same object.

    Returns:
        classes (M,), scores (M,) and which to keep, bool (M,).
    """
    scores, classes = distribution.max(dim=1)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[batched_nms(row.gt_boxes.tensor.float(), scores, classes, nms_threshold)] = True
    return classes, scores, kept


class Relabelling(Method):
    """Base class that changes the teacher's class distribution of each box, and selects by the
    resulting score.

    The distribution is that of the label's own box, so a box can get a class for which the teacher
    gave no label. The RPN, which knows no classes, keeps the labels whose own score passes a fixed
    threshold.

    Args:
        threshold: threshold of the new scores, and of the teacher's scores during warm-up.
            rpn_threshold: threshold of the RPN's labels. 0: the RPN learns the RoI head's labels.
            first_step: the step that ends the warm-up.
    """

    selects_pseudo_labels = True
    needs_online_teacher = True
    groups = ("relabelling",)
    # The thresholds of these groups compare the scores before relabelling.
    excludes = ("relabelling", "fixed score threshold", "class thresholds")

    def __init__(self, *, threshold: float, rpn_threshold: float, first_step: int) -> None:
        super().__init__()
        self.threshold, self.rpn_threshold = threshold, rpn_threshold
        self.first_step = first_step

    @staticmethod
    def add_common_config(node: CfgNode, warmup: int) -> None:
        """Adds the keys that `common_config` reads."""
        node.SCORE_THRESHOLD = 0.9  # threshold of the changed scores
        # The threshold of the RPN's labels, by the teacher's own scores. 0: the RPN learns the RoI
        # head's labels.
        node.RPN_SCORE_THRESHOLD = 0.9
        node.WARMUP_STEPS = warmup  # steps of mutual learning in which scores and classes stay

    @staticmethod
    def common_config(cfg: CfgNode, name: str) -> Dict[str, Any]:
        """The arguments of this class, from the keys of SSOD.`name`."""
        node = cfg.SSOD[name]
        if not 0.0 <= node.SCORE_THRESHOLD <= 1.0:
            raise UserError(
                f"SSOD.{name}.SCORE_THRESHOLD is {node.SCORE_THRESHOLD}: use a score between 0 and 1."
            )
        check_rpn_threshold(f"SSOD.{name}", node.RPN_SCORE_THRESHOLD)
        return {
            "threshold": node.SCORE_THRESHOLD,
            "rpn_threshold": node.RPN_SCORE_THRESHOLD,
            "first_step": first_step_after(cfg, f"SSOD.{name}", node.WARMUP_STEPS),
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        node = cfg.SSOD[cls.config_key]
        node.WARMUP_STEPS, node.RPN_SCORE_THRESHOLD = 0, high

    @abstractmethod
    def redistribute(self, found: Labelled, context: StepContext) -> Tensor:
        """Returns (M, K): the new distributions that replace `found.probabilities`."""

    def columns(self, found: Labelled, context: StepContext) -> Dict[str, Tensor]:
        """Returns further columns of the labels, (M, ...) each."""
        return {}

    def judge(self, pseudo: PseudoLabels, context: StepContext) -> Labelled:
        """The teacher's distributions and features of its labels' boxes."""
        assert context.teacher_outputs is not None
        heads = context.teacher.roi_heads
        boxes = [row.gt_boxes for row in pseudo.instances]
        found = judge_boxes(heads, context.teacher_outputs.maps, boxes)
        predictor = box_stage(heads).box_predictor  # softmax, or EQL v2's sigmoids
        parts = predictor.predict_probs((found.logits, found.deltas), boxes)
        probabilities = torch.cat([found.logits[:0].float(), *parts])[:, :-1]
        return Labelled(
            probabilities, found.features.flatten(1).float(), probabilities.new_zeros(())
        )

    @torch.no_grad()
    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        found = self.judge(pseudo, context)
        context.shared[self.name] = found
        rpn = rpn_masks(pseudo, self.rpn_threshold)
        if context.step < self.first_step:
            return pseudo.select([row.scores >= self.threshold for row in pseudo.instances], rpn)
        sizes = [len(row) for row in pseudo.instances]
        unchanged = found.probabilities.split(sizes)
        distributions = self.redistribute(found, context).split(sizes)
        more = {name: value.split(sizes) for name, value in self.columns(found, context).items()}
        nms = box_stage(context.teacher.roi_heads).box_predictor.test_nms_thresh
        columns: List[Dict[str, Tensor]] = []
        masks: List[Tensor] = []
        for index, (row, distribution) in enumerate(zip(pseudo.instances, distributions)):
            classes, scores, kept = relabelled(row, distribution, nms)
            own = {name: parts[index] for name, parts in more.items()}
            columns.append({"gt_classes": classes, "scores": scores.to(row.scores), **own})
            masks.append(kept & (scores >= self.threshold))
            # A second label of the same box gets the class of the first one even if nothing
            # changes.
            before, scores, kept = relabelled(row, unchanged[index], nms)
            otherwise = masks[-1] != (kept & (scores >= self.threshold))
            found.changed = found.changed + (otherwise | (masks[-1] & (classes != before))).sum()
        return pseudo.with_columns(columns).select(masks, rpn)

    def inert_reason(self, period: InertPeriod) -> str:
        if period.last_step <= self.first_step:
            return f"classes and scores stay until step {self.first_step}; lower its WARMUP_STEPS in a short run"
        return super().inert_reason(period)
