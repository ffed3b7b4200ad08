"""All losses of a pass: of every decoder layer, the encoder and the denoising queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Optional

import torch
from torch import Tensor

from ssod.detectors.detr.losses import Criterion
from ssod.detectors.detr.predictions import Layers, Predictions
from ssod.detectors.detr.targets import DetrLabels
from ssod.utils.comm import all_reduce_mean


def label_count(labels: DetrLabels) -> float:
    """The divisor of the losses: the number of labels, averaged over the ranks, at least 1.

    Every rank calls it equally often.
    """
    count = torch.tensor(float(len(labels)), dtype=torch.float64)
    all_reduce_mean([count])
    return max(float(count), 1.0)


def stream_losses(
    criterion: Criterion,
    predictions: Predictions,
    labels: DetrLabels,
    assignment: Optional[Tensor] = None,
    cls_weights: Optional[Tensor] = None,
    reg_weights: Optional[Tensor] = None,
) -> Dict[str, Tensor]:
    """Weighted losses of a stream. If every weight is 1, they are those of `transformers`.

    Args:
        assignment: (L, N, Q) of the decoder; None: `Criterion.match`.
        cls_weights, reg_weights: (N, Q) of the last layer, instead of its labels' weights.

    Returns:
        "loss_cls", "loss_bbox" and "loss_giou" of the last layer, "..._aux" summed over the others,
        "..._enc" and "..._dn" where the model has them. The names do not depend on the labels.
    """
    decoder, count = predictions.decoder, label_count(labels)
    if assignment is None:
        assignment = criterion.match(decoder.logits, decoder.boxes, labels)
    last = criterion.losses(
        decoder.logits[-1:],
        decoder.boxes[-1:],
        labels,
        assignment[-1:],
        count,
        None if cls_weights is None else cls_weights[None],
        None if reg_weights is None else reg_weights[None],
    )
    losses = {name: value.sum() for name, value in last.items()}
    if len(decoder.logits) > 1:
        others = criterion.losses(
            decoder.logits[:-1], decoder.boxes[:-1], labels, assignment[:-1], count
        )
        losses.update({f"{name}_aux": value.sum() for name, value in others.items()})
    if predictions.encoder is not None:
        own = labels
        if predictions.encoder_binary:
            own = replace(labels, classes=torch.zeros_like(labels.classes))
        losses.update(_named(criterion, predictions.encoder, own, None, count, "enc"))
    if predictions.denoising is not None:
        noisy = predictions.denoising
        given = noisy.assignment.expand(len(noisy.layers.logits), -1, -1)
        count = count * noisy.groups
        losses.update(_named(criterion, noisy.layers, labels, given, count, "dn"))
    return losses


def _named(
    criterion: Criterion,
    layers: Layers,
    labels: DetrLabels,
    assignment: Optional[Tensor],
    count: float,
    suffix: str,
) -> Dict[str, Tensor]:
    if assignment is None:
        assignment = criterion.match(layers.logits, layers.boxes, labels)
    found = criterion.losses(layers.logits, layers.boxes, labels, assignment, count)
    return {f"{name}_{suffix}": value.sum() for name, value in found.items()}
