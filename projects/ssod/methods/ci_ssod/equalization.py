"""Equalization Loss v2, which CI-SSOD compares with: Tan et al., CVPR 2021.

Each class is a binary classifier of its own, and its positive and negative gradients are
re-weighted by their ratio so far. The last logit is the background's, whose gradients are not
re-weighted. Shapes: R RoIs, K foreground classes.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY, GeneralizedRCNN, StandardROIHeads
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

# Each binary classifier starts at this probability, as EQL's do.
_PRIOR = 0.001


def equalization_weights(
    positive: Tensor, negative: Tensor, gamma: float, mu: float, alpha: float
) -> Tuple[Tensor, Tensor]:
    """EQL v2's factors of positive and negative gradients, from their sums so far.

    `r = 1 / (1 + exp(-gamma (positive / negative - mu)))` is the factor of negatives,
    `1 + alpha (1 - r)` is the factor of positives.

    Args:
        positive, negative: (K,) accumulated absolute gradients. A class without any gradients yet
            counts as balanced.

    Returns:
        Factors of positives and of negatives, (K+1,) each. They are 1 for background.
    """
    ratio = torch.where(negative > 0, positive / negative, math.inf)
    negative_factor = torch.sigmoid(gamma * (ratio - mu))
    negative_factor = F.pad(negative_factor, (0, 1), value=1.0)
    return 1 + alpha * (1 - negative_factor), negative_factor


class SigmoidOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor with a sigmoid per class and EQL v2's loss.

    The gradient sums are buffers of this class rather than of the Method, so that the loss finds
    them wherever the classifier is.
    """

    positive: Tensor
    negative: Tensor
    gamma, mu, alpha = 12.0, 0.8, 4.0

    def factors(self, labels: Tensor) -> Tensor:
        """(R, K+1) weights of the binary losses."""
        positive, negative = equalization_weights(
            self.positive, self.negative, self.gamma, self.mu, self.alpha
        )
        is_label = F.one_hot(labels, self.num_classes + 1).bool()
        return torch.where(is_label, positive, negative)

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(R, K+1) logits, (R,) labels -> (R,): weighted binary cross-entropy, summed over
        logits.
        """
        target = F.one_hot(labels, self.num_classes + 1).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (each * self.factors(labels)).sum(dim=1)

    def accumulate(self, logits: Tensor, labels: Tensor, roi_weights: Tensor) -> Tensor:
        """(2, K): the terms that these RoIs add to the sums of positive and negative gradients.

        `roi_weights`: (R,).
        """
        is_label = F.one_hot(labels, self.num_classes + 1).bool()
        probability = torch.sigmoid(logits)
        size = torch.where(is_label, 1 - probability, probability)
        size = size * self.factors(labels) * roi_weights[:, None]
        positive = torch.where(is_label, size, 0.0).sum(dim=0)
        return torch.stack([positive, size.sum(dim=0) - positive])[:, :-1]

    def predict_probs(
        self, predictions: Tuple[Tensor, Tensor], proposals: List[Instances]
    ) -> Sequence[Tensor]:
        """A class's score is its own probability times the probability of not being background."""
        probability = torch.sigmoid(predictions[0])
        background = probability[:, -1:]
        scores = torch.cat([probability[:, :-1] * (1 - background), background], dim=1)
        return scores.split([len(proposal) for proposal in proposals])


def make_sigmoid(predictor: Any) -> None:
    """Turns a `FastRCNNOutputLayers` into a fresh `SigmoidOutputLayers`, in place."""
    predictor.__class__ = SigmoidOutputLayers
    for name in ("positive", "negative"):
        zeros = predictor.cls_score.bias.detach().new_zeros(predictor.num_classes)
        predictor.register_buffer(name, zeros)
    with torch.no_grad():
        predictor.cls_score.bias[:-1] = -math.log((1 - _PRIOR) / _PRIOR)


@ROI_HEADS_REGISTRY.register()
class SigmoidROIHeads(StandardROIHeads):
    """`StandardROIHeads` with `SigmoidOutputLayers`. With this `MODEL.ROI_HEADS.NAME`, the config
    loads weights that EQLv2 has trained.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        make_sigmoid(self.box_predictor)


@METHOD_REGISTRY.register()
class EQLv2(Method):
    """Trains the box head with EQL v2's loss, on both streams, and keeps its gradient sums.

    `MODEL.ROI_HEADS.NAME` must be "SigmoidROIHeads", so that loading the weights rebuilds the
    sigmoid classifier.
    """

    needs = (Capability.REGIONS, Capability.ONE_HEAD)
    config_key = "EQLV2"
    groups = ("sigmoid classifier", "own RoI heads")
    excludes = ("own RoI heads",)
    needs_unlabeled = False
    activity_unit = "|1 - weight of negatives|, mean over the classes"
    trial_score_scale = 0.002  # sigmoids whose prior is low

    def __init__(self, *, gamma: float, mu: float, alpha: float, unsup_loss_weight: float) -> None:
        super().__init__()
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.unsup_loss_weight = unsup_loss_weight

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.EQLV2 = CfgNode()
        # The paper's parameters of the map from the ratio of gradients to weights.
        node.GAMMA = 12.0
        node.MU = 0.8
        node.ALPHA = 4.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.EQLV2
        return {
            "gamma": node.GAMMA,
            "mu": node.MU,
            "alpha": node.ALPHA,
            "unsup_loss_weight": cfg.SSOD.UNSUP_LOSS_WEIGHT,
        }

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.MODEL.ROI_HEADS.NAME = "SigmoidROIHeads"

    def attach(self, student: GeneralizedRCNN) -> None:
        predictor = student.roi_heads.box_predictor
        if not isinstance(predictor, SigmoidOutputLayers):
            raise UserError(
                "EQLv2 needs its own classifier: set MODEL.ROI_HEADS.NAME to SigmoidROIHeads, so that evaluation of the "
                "saved weights has it too."
            )
        predictor.gamma, predictor.mu, predictor.alpha = self.gamma, self.mu, self.alpha

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        predictor = context.student.roi_heads.box_predictor
        added = torch.stack([torch.zeros_like(predictor.positive)] * 2)
        streams = ((outputs.labeled, 1.0), (outputs.unlabeled, self.unsup_loss_weight))
        for view, factor in streams:
            if view is not None and len(view.cls_weights):
                weights = view.cls_weights * (factor / len(view.cls_weights))
                added += predictor.accumulate(view.predictions.logits, view.labels, weights)
        all_reduce_sum([added])
        predictor.positive += added[0]
        predictor.negative += added[1]

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        predictor: Any = context.student.roi_heads.box_predictor
        _, negative = equalization_weights(
            predictor.positive, predictor.negative, self.gamma, self.mu, self.alpha
        )
        return (1 - negative[:-1]).abs().mean()
