"""The half-size branch of Deformable DETR (LSM, section 3.3: "LSM for Deformable-DETR").

The predictions of the main branch are matched with the branch's labels. Learned queries keep their
meaning from image to image, so the same queries of the half-size image learn these labels.

Shapes: N images, L decoder layers, Q queries, K classes, M labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ssod.detectors.detr.losses import Criterion
from ssod.detectors.detr.stream_losses import label_count
from ssod.detectors.detr.targets import DetrLabels
from ssod.detectors.outputs import Outputs
from ssod.methods.shared.half_size import HALF_SIZE


@dataclass
class PairedOutputs:
    """The branch in one step.

    Attributes:
        labels: the labels that the branch learns. assignment: (L, N, Q) of the main branch's
            predictions.
        logits: (L, N, Q, K) and boxes (L, N, Q, 4) of the half-size images.
        count: the number that its losses are divided by.
    """

    labels: DetrLabels
    assignment: Tensor
    logits: Tensor
    boxes: Tensor
    count: float


def run_paired(
    criterion: Criterion,
    outputs: Outputs,
    targets: Sequence[Instances],
    class_heads: Optional[nn.ModuleList],
) -> PairedOutputs:
    """Matches the main branch's predictions of every layer, and classifies the half-size images'
    queries.

    Args:
        targets: the branch's labels, N from `make_targets`, in pixels of the full-size images.
        class_heads: L classifiers of the branch. None: the main branch's.
    """
    assert outputs.unlabeled is not None
    main = outputs.unlabeled.predictions
    half: Any = outputs.extra[HALF_SIZE]  # `Predictions` of a detector of queries
    labels = DetrLabels.of(targets, main.sizes)
    logits = half.decoder.logits
    if class_heads is not None:
        logits = torch.stack([head(layer) for head, layer in zip(class_heads, half.hidden)])
    assignment = criterion.match(main.decoder.logits, main.decoder.boxes, labels)
    return PairedOutputs(labels, assignment, logits, half.decoder.boxes, label_count(labels))


def paired_losses(criterion: Criterion, pairs: PairedOutputs) -> Dict[str, Tensor]:
    """The branch's losses, summed over layers."""
    found = criterion.losses(pairs.logits, pairs.boxes, pairs.labels, pairs.assignment, pairs.count)
    return {name: value.sum() for name, value in found.items()}
