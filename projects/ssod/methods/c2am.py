"""C2AM loss, which CI-SSOD compares with: Wang et al., "C2AM Loss: Chasing a Better Decision
Boundary for Long-Tail Object Detection", CVPR 2022.

The classifier compares directions: its logits are cosines. If a label's classifier is shorter than
a competitor's, the label must win by an angle. So classes with much data keep a little more room.
Shapes: R RoIs, D box-head channels, K foreground classes; background is one more class.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Union

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY, GeneralizedRCNN, StandardROIHeads
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor, nn

from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, Method, StepContext
from ssod.structures import PseudoLabels

# Below this value, 1 - cos^2 gets no gradient, because the gradient would grow without bound.
_LEAST_SINE_SQUARED = 1e-6


def angular_margins(norms: Tensor, alpha: float) -> Tensor:
    """`m_ij = max(0, alpha / pi * log(|W_i| / |W_j|))`: the margin by which label j must win
    against competitor i.

    Args:
        norms: (K+1,) norms of the classifier's rows.

    Returns:
        (K+1, K+1) radians, row: the label j, column: the competitor i.
    """
    logs = norms.log()
    return (alpha / math.pi * (logs[None, :] - logs[:, None])).clamp(min=0.0)


def margin_loss(cosines: Tensor, labels: Tensor, margins: Tensor, scale: float) -> Tensor:
    """`log(1 + sum over competitors i of exp(s cos(theta_i) - s cos(theta_j + m_ij)))`, where j is
    the label.

    Without margins it is the cross-entropy of the logits `s cos`.

    Args:
        cosines: (R, K+1). labels: (R,) in [0, K]. margins: (K+1, K+1), see `angular_margins`.
            scale: s.

    Returns:
        (R,).
    """
    own = cosines.gather(1, labels[:, None])
    sine = (1 - own**2).clamp(min=_LEAST_SINE_SQUARED).sqrt()
    margin = margins[labels]
    lead = scale * (cosines - own * margin.cos() + sine * margin.sin())
    # The term of the label against itself, exp(0), is the 1 in the logarithm.
    lead = lead.scatter(1, labels[:, None], 0.0)
    return torch.logsumexp(lead, dim=1)


class CosineLinear(nn.Module):
    """Logits `s cos(x, W_i)`: (R, D) -> (R, K+1). The scale s is saved with the weights."""

    scale: Tensor

    def __init__(self, weight: nn.Parameter, scale: float) -> None:
        super().__init__()
        self.in_features = weight.shape[1]
        self.weight = weight
        self.register_buffer("scale", torch.tensor(scale, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class CosineOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor with cosines for logits and the loss above."""

    alpha = 0.5

    def margins(self) -> Tensor:
        """(K+1, K+1), without gradient."""
        return angular_margins(self.cls_score.weight.detach().float().norm(dim=1), self.alpha)

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(R, K+1) logits, (R,) labels -> (R,)."""
        scale = self.cls_score.scale
        return margin_loss(logits / scale, labels, self.margins(), scale)


def make_cosine(predictor: Any) -> None:
    """Turns a `FastRCNNOutputLayers` into a fresh `CosineOutputLayers`, in place."""
    predictor.__class__ = CosineOutputLayers
    predictor.cls_score = CosineLinear(predictor.cls_score.weight, 30.0)


@ROI_HEADS_REGISTRY.register()
class CosineROIHeads(StandardROIHeads):
    """`StandardROIHeads` with `CosineOutputLayers`. With this `MODEL.ROI_HEADS.NAME`, the config
    loads weights that C2AM has trained.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        make_cosine(self.box_predictor)


@METHOD_REGISTRY.register()
class C2AM(Method):
    """Trains the box head with the C2AM loss, on both streams.

    `MODEL.ROI_HEADS.NAME` must be "CosineROIHeads", so that loading the weights rebuilds the cosine
    classifier.

    Args:
        scale: s. alpha: factor of the margins.
    """

    needs = (Capability.REGIONS, Capability.ONE_HEAD)
    config_key = "C2AM"
    groups = ("own RoI heads",)
    excludes = ("own RoI heads", "gradient matrix")
    needs_unlabeled = False
    activity_unit = "largest margin of a RoI's label, radians, mean over RoIs"

    def __init__(self, *, scale: float, alpha: float) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"SSOD.C2AM.SCALE is {scale}: use a value above 0.")
        if not alpha >= 0:
            raise UserError(f"SSOD.C2AM.ALPHA is {alpha}: use 0 or more.")
        self.scale, self.alpha = scale, alpha

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.C2AM = CfgNode()
        cfg.SSOD.C2AM.SCALE = 30.0  # factor of the cosines
        cfg.SSOD.C2AM.ALPHA = 0.5  # factor of the margins; 0: none

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {"scale": cfg.SSOD.C2AM.SCALE, "alpha": cfg.SSOD.C2AM.ALPHA}

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        cfg.MODEL.ROI_HEADS.NAME = "CosineROIHeads"
        # The scale multiplies the gradients of an untrained classifier in its first steps.
        cfg.SSOD.C2AM.SCALE = 6.0

    def attach(self, student: GeneralizedRCNN) -> None:
        predictor = student.roi_heads.box_predictor
        if not isinstance(predictor, CosineOutputLayers):
            raise UserError(
                "C2AM needs its own classifier: set MODEL.ROI_HEADS.NAME to CosineROIHeads, so that evaluation of the "
                "saved weights has it too."
            )
        predictor.cls_score.scale.fill_(self.scale)
        predictor.alpha = self.alpha

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        assert outputs is not None
        predictor: Any = context.student.roi_heads.box_predictor
        largest = predictor.margins().amax(dim=1)
        views = [view for view in (outputs.labeled, outputs.unlabeled) if view is not None]
        return largest[torch.cat([view.labels for view in views])].mean().nan_to_num()
