"""Progressive distribution alignment of CReST+ (Wei et al., CVPR 2021, section 3.3; the alignment
itself is ReMixMatch's).

Shapes: M labels of all images, K foreground classes.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Union

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from ssod.config import class_number
from ssod.data.label_columns import label_columns
from ssod.data.packed import PackedRecords
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, StepContext, TrainingData
from ssod.methods.crest.sampling import ADDED
from ssod.methods.shared.relabelling import Labelled, Relabelling
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

# Avoids a ratio of 0 or infinity for a class that one side has never seen. It is the authors'
# value.
_SMOOTHING = 1e-6


def target_distribution(class_counts: Tensor, temperature: float) -> Tensor:
    """The labelled set's class distribution to the power t, normalised. With t 1 it stays, with t 0
    it is uniform. (K,) -> (K,).

    Example:
        >>> target_distribution(torch.tensor([90.0, 10.0]), temperature=0.5)
        tensor([0.7500, 0.2500])
    """
    share = class_counts / class_counts.sum().clamp(min=1e-12)
    powered = torch.where(share > 0, share**temperature, 0.0)
    return powered / powered.sum().clamp(min=1e-12)


def align_distributions(probabilities: Tensor, target: Tensor, model: Tensor) -> Tensor:
    """`p * target / model`, scaled to p's own sum, because a detector's p leaves a part to
    background.

    Args:
        probabilities: (M, K), rows sum to 1 or less. target: (K,) wanted distribution. model: (K,)
            the teacher's distribution.

    Returns:
        (M, K), with the row sums of p.

    Example:
        >>> p = torch.tensor([[0.6, 0.2]])
        >>> target, model = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
        >>> align_distributions(p, target, model)
        tensor([[0.4000, 0.4000]])
    """
    aligned = probabilities * ((target + _SMOOTHING) / (model + _SMOOTHING))
    mass = probabilities.sum(dim=1, keepdim=True)
    return aligned * (mass / aligned.sum(dim=1, keepdim=True).clamp(min=1e-12))


@METHOD_REGISTRY.register()
class DistributionAlignment(Relabelling):
    """Gives the pseudo-labels the class distribution of the labelled set, to the power of
    `temperature`.

    Args:
        temperature: t. decay: decay of the teacher's mean distribution over its labels, per
            micro-batch. For the others see `Relabelling`.
    """

    config_key = "DISTRIBUTION_ALIGNMENT"
    selection_key = "SSOD.DISTRIBUTION_ALIGNMENT.SCORE_THRESHOLD"
    model: Tensor
    activity_unit = "labels selected otherwise, or with another class, in a step"

    def __init__(
        self, *, num_classes: int, temperature: float, decay: float, **selection: Any
    ) -> None:
        super().__init__(**selection)
        node = "SSOD.DISTRIBUTION_ALIGNMENT"
        if not 0.0 <= temperature <= 1.0:
            raise UserError(f"{node}.TEMPERATURE is {temperature}: use a number from 0 to 1.")
        if not 0 <= decay < 1:
            raise UserError(f"{node}.EMA_DECAY is {decay}: use a value from 0 to below 1.")
        self.temperature, self.decay = temperature, decay
        self.labels_per_class = torch.zeros(num_classes)
        # The teacher's mean distribution. It is 0 for all classes before the teacher has labelled
        # anything.
        self.register_buffer("model", torch.zeros(num_classes))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.DISTRIBUTION_ALIGNMENT = CfgNode()
        cls.add_common_config(node, warmup=0)
        # The power of the labelled set's distribution. `ssod.tools.run_generations` lowers it from
        # 1 to this value.
        node.TEMPERATURE = 0.5
        node.EMA_DECAY = 0.99  # decay of the teacher's mean distribution

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.DISTRIBUTION_ALIGNMENT
        return {
            "num_classes": class_number(cfg)[1],
            "temperature": node.TEMPERATURE,
            "decay": node.EMA_DECAY ** (1 / cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS),
            **cls.common_config(cfg, "DISTRIBUTION_ALIGNMENT"),
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        node = cfg.SSOD.DISTRIBUTION_ALIGNMENT
        node.EMA_DECAY **= factor
        node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)

    def setup(self, data: TrainingData) -> None:
        # Only human labels count, without those that a generation added.
        names = PackedRecords.of(data.labeled).column("dataset_name")
        human = np.fromiter((name != ADDED for name in names), dtype=bool, count=len(names))
        labels = label_columns(data.labeled).trained()
        kept = labels.classes[human[labels.image]]
        counts = np.bincount(kept, minlength=len(self.labels_per_class))
        self.labels_per_class = torch.from_numpy(counts).to(self.labels_per_class.dtype)

    def redistribute(self, found: Labelled, context: StepContext) -> Tensor:
        if not self.model.any():
            return found.probabilities
        target = target_distribution(self.labels_per_class.to(self.model), self.temperature)
        return align_distributions(found.probabilities, target, self.model)

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        found: Optional[Labelled] = context.shared.get(self.name)
        if pseudo is None or found is None:
            return
        total = found.probabilities.sum(dim=0).to(self.model)
        all_reduce_sum([total])
        batch = total / total.sum()
        # The average starts with the first labels, not with 0.
        decay = torch.where(self.model.any(), self.decay, 0.0)
        moved = decay * self.model + (1 - decay) * batch
        self.model.copy_(torch.where(total.sum() > 0, moved, self.model))

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        found: Optional[Labelled] = context.shared.get(self.name)
        return 0.0 if found is None else found.changed
