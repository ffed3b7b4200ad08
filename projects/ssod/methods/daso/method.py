"""DASO in the step: queues of labelled features, blended pseudo-labels, and the alignment of both
views.

Shapes: K foreground classes, Q features of each, D box-head channels, M labels of all images.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Union

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from torch import Tensor

from ssod.detectors.features import extract_features
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, StepContext
from ssod.methods.daso.blending import (
    blend_distributions,
    blending_shares,
    semantic_alignment_loss,
    semantic_distribution,
)
from ssod.methods.shared.relabelling import Labelled, Relabelling
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

# The weak view's semantic distribution follows each label into the strong view.
_TARGET = "daso_target"
# For `activity`: the shares of prototypes in the labels of this step.
_BLENDED = "daso_blended"


@METHOD_REGISTRY.register()
class DASO(Relabelling):
    """Blends the classifier's pseudo-labels with those of the nearest prototype, more strongly for
    classes that the classifier favours.

    Prototypes are means of the teacher's features of labelled boxes, from a queue of the same size
    for each class. A loss moves the student's features of the selected boxes towards the prototypes
    that are near to the teacher's features.

    Args:
        queue_size: Q. temperature: temperature of the softmax over prototypes.
            distribution_temperature: that of `blending_shares`.
        count_decay: decay of the pseudo-labels' class counts, per micro-batch. align_weight: weight
            of the alignment loss, multiplied by `unsup_loss_weight`. For the others see
            `Relabelling`.
    """

    queue: Tensor
    filled: Tensor
    counts: Tensor
    config_key = "DASO"
    selection_key = "SSOD.DASO.SCORE_THRESHOLD"
    activity_unit = "labels blended"

    def __init__(
        self,
        *,
        num_classes: int,
        queue_size: int,
        temperature: float,
        distribution_temperature: float,
        count_decay: float,
        align_weight: float,
        unsup_loss_weight: float,
        **selection: Any,
    ) -> None:
        super().__init__(**selection)
        node = "SSOD.DASO"
        for key, value in (
            ("QUEUE_SIZE", queue_size),
            ("TEMPERATURE", temperature),
            ("DISTRIBUTION_TEMPERATURE", distribution_temperature),
        ):
            if not value > 0:
                raise UserError(f"{node}.{key} is {value}: use a value above 0.")
        if not 0 <= count_decay < 1:
            raise UserError(f"{node}.EMA_DECAY is {count_decay}: use a value from 0 to below 1.")
        if not align_weight >= 0:
            raise UserError(f"{node}.ALIGN_WEIGHT is {align_weight}: use 0 or more.")
        self.queue_size, self.temperature = queue_size, temperature
        self.distribution_temperature = distribution_temperature
        self.count_decay = count_decay
        self.loss_weight = align_weight * unsup_loss_weight
        # The number of features ever put into each class's queue. The newest one is at (filled - 1)
        # % Q.
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(num_classes))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.DASO = CfgNode()
        cls.add_common_config(node, warmup=5000)
        node.QUEUE_SIZE = 256  # labelled boxes of each class
        node.TEMPERATURE = 0.05  # temperature of the softmax over prototypes
        # The temperature of the blending shares. This is the authors' value for equal class
        # frequencies in both sets. Use 0.3 otherwise.
        node.DISTRIBUTION_TEMPERATURE = 1.5
        node.EMA_DECAY = 0.99  # decay of the pseudo-labels' class counts
        node.ALIGN_WEIGHT = 1.0  # weight of the semantic alignment loss, times UNSUP_LOSS_WEIGHT

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.DASO
        return {
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "queue_size": node.QUEUE_SIZE,
            "temperature": node.TEMPERATURE,
            "distribution_temperature": node.DISTRIBUTION_TEMPERATURE,
            "count_decay": node.EMA_DECAY ** (1 / cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS),
            "align_weight": node.ALIGN_WEIGHT,
            "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT,
            **cls.common_config(cfg, "DASO"),
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.DASO
        node.EMA_DECAY **= factor
        node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.SSOD.DASO.QUEUE_SIZE = 3

    def attach(self, student: GeneralizedRCNN) -> None:
        channels = box_stage(student.roi_heads).box_predictor.cls_score.in_features
        # Half precision is enough for a mean over the queue. 1,203 classes of 1,024 channels take
        # 0.6 GB.
        empty = torch.zeros(len(self.filled), self.queue_size, channels, dtype=torch.float16)
        self.register_buffer("queue", empty)

    def prototypes(self) -> Tuple[Tensor, Tensor]:
        """(K, D) means of the queues, and bool (K,) of the classes that have any feature."""
        sizes = self.filled.clamp(max=self.queue_size)
        total = self.queue.sum(dim=1, dtype=torch.float32)  # places without a feature are 0
        return total / sizes.clamp(min=1)[:, None], sizes > 0

    def redistribute(self, found: Labelled, context: StepContext) -> Tensor:
        prototypes, known = self.prototypes()
        semantic = semantic_distribution(found.features, prototypes, known, self.temperature)
        # Without any prototype, nothing is blended.
        shares = blending_shares(self.counts, self.distribution_temperature) * known.any()
        if len(found.probabilities):
            context.shared[_BLENDED] = shares[found.probabilities.argmax(dim=1)].sum()
        return blend_distributions(found.probabilities, semantic, shares)

    def columns(self, found: Labelled, context: StepContext) -> Dict[str, Tensor]:
        prototypes, known = self.prototypes()
        target = semantic_distribution(found.features, prototypes, known, self.temperature)
        return {_TARGET: target * known.any()}

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        view = outputs.unlabeled
        if view is None or context.step < self.first_step or self.loss_weight == 0:
            return {}
        assert view.view.pseudo is not None
        # The strong view's labels lack those that a paste hides. Pasted labels have no target.
        rows = [row[row.selected] for row in view.view.pseudo.instances]
        rows = [row[row.get(_TARGET).sum(dim=1) > 0] for row in rows]
        heads = box_stage(context.student.roi_heads)
        features = view.maps.box_features(heads, [r.gt_boxes for r in rows])
        prototypes, known = self.prototypes()
        loss = semantic_alignment_loss(
            features.flatten(1).float(),
            torch.cat([row.get(_TARGET) for row in rows]),
            prototypes,
            known,
            self.temperature,
        )
        return {"loss_daso_alignment": self.loss_weight * loss}

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        if pseudo is None:
            return
        for features, classes in comm.all_gather(self._labeled_features(context)):
            self.enqueue(features.to(self.queue), classes.to(self.queue.device))
        batch = torch.zeros_like(self.counts)
        for row in pseudo.instances:
            chosen = row.gt_classes[row.selected]
            batch.index_add_(0, chosen, torch.ones_like(chosen, dtype=batch.dtype))
        all_reduce_sum([batch])
        self.counts.mul_(self.count_decay).add_(batch)

    def _labeled_features(self, context: StepContext) -> Tuple[Tensor, Tensor]:
        """The teacher's features (B, D) of this rank's labelled boxes in the weak view, and their
        classes (B,), on the CPU.
        """
        samples = [s for s in context.batch.labeled if s.instances is not None and len(s.instances)]
        if not samples:
            empty = torch.zeros(0, self.queue.shape[2], dtype=self.queue.dtype)
            return empty, torch.zeros(0, dtype=torch.int64)
        teacher = context.teacher
        maps = extract_features(teacher, [s.weak.to(teacher.device) for s in samples])
        instances = [s.instances.to(teacher.device) for s in samples if s.instances is not None]
        boxes = [row.gt_boxes for row in instances]
        features = maps.box_features(box_stage(teacher.roi_heads), boxes)
        classes = torch.cat([row.gt_classes for row in instances])
        return features.flatten(1).to(self.queue.dtype).cpu(), classes.cpu()

    def enqueue(self, features: Tensor, classes: Tensor) -> None:
        """Puts features (B, D) of classes (B,) into the queues. The oldest features leave."""
        for label in classes.unique().tolist():
            own = features[classes == label]
            first = self.filled[label] + max(0, len(own) - self.queue_size)
            own = own[-self.queue_size :]
            places = (first + torch.arange(len(own), device=own.device)) % self.queue_size
            self.queue[label, places] = own
            self.filled[label] = first + len(own)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return context.shared.get(_BLENDED, 0.0)
