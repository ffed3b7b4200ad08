"""Gradient-based reweighting, GbR (CI-SSOD, section 3.2).

Shapes: K foreground classes (class K is background).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor

from ssod.detectors.base import Capability
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.ci_ssod.balance import ClassBalance, StreamWeights
from ssod.methods.shared.recording import RecordArrays
from ssod.structures import PseudoLabels
from ssod.utils.comm import all_reduce_sum

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section


@METHOD_REGISTRY.register()
class GradientReweighting(Method):
    """Multiplies each RoI's classification loss by the weight of its label's class: `w_c` on
    unlabelled images, `w_c ** beta` on labelled ones (Eq. 8).

    The weights bring positive and negative gradients of each class into balance (`ClassBalance`).
    In each stream they are divided by their running mean over the stream's RoIs, as in the authors'
    code. So GbR moves weight between classes, not between classification and the other losses.
    """

    needs = (Capability.SOFTMAX_ROWS,)
    config_key = "GRADIENT_REWEIGHTING"
    groups = ("gradient matrix",)
    excludes = ("sigmoid classifier",)
    mean_weights: Tensor
    needs_unlabeled = False
    activity_unit = "|w - 1|, mean over the classes"

    def __init__(self, *, balance: ClassBalance, beta: float) -> None:
        super().__init__()
        if not 0.0 <= beta <= 1.0:
            raise UserError(f"SSOD.GRADIENT_REWEIGHTING.BETA is {beta}: use a value from 0 to 1.")
        self.balance = balance
        self.beta = beta
        # Running mean of the RoIs' weights in the labelled and the unlabelled stream.
        self.register_buffer("mean_weights", torch.ones(2))

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.GRADIENT_REWEIGHTING = CfgNode()
        # The decay of the gradient matrix (the paper's eta_g) and of the mean weight of RoIs. All
        # these keys except BETA also serve GradientThresholding.
        node.EMA_DECAY = 0.9995
        node.LR = 0.01  # learning rate of SGD on the class logits a
        node.MOMENTUM = 0.9
        # weight of L_align: 1 for the labelled and 4 for the unlabelled stream
        node.ALIGN_WEIGHT = 5.0
        node.SOLVER = "jacobi"  # or "direct"
        node.BOUNDS = (1 / 3, 5.0)
        # Steps that fill the matrix before the weights leave 1.
        node.WARMUP_STEPS = 8000
        # Labelled RoIs have the weight w ** BETA.
        node.BETA = 0.5
        # The stage of a cascade whose classifier fills the matrix. The weights apply to every
        # stage.
        node.CASCADE_STAGE = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {
            "balance": ClassBalance.from_config(cfg),
            "beta": cfg.SSOD.GRADIENT_REWEIGHTING.BETA,
        }

    @classmethod
    def scale_config(cls, cfg: CfgNode, factor: float) -> None:
        scale_balance(cfg, factor)

    @classmethod
    def trial_config(cls, cfg: CfgNode, high: float, low: float) -> None:
        super().trial_config(cfg, high, low)
        node = cfg.SSOD.GRADIENT_REWEIGHTING
        node.WARMUP_STEPS, node.LR = 1, 0.2

    def attach(self, student: Any) -> None:
        self.balance.attach(student)

    def _class_weights(self) -> StreamWeights:
        weights = self.balance.weights
        return weights**self.beta, weights

    def _stream_weights(self) -> StreamWeights:
        labeled, unlabeled = self._class_weights()
        return labeled / self.mean_weights[0], unlabeled / self.mean_weights[1]

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        labeled_weights, unlabeled_weights = self._stream_weights()
        labeled, unlabeled = outputs.labeled, outputs.unlabeled
        if len(labeled.cls_weights):
            labeled = labeled.map_stages(lambda view: _weighted(view, labeled_weights))
        if unlabeled is not None and len(unlabeled.cls_weights):
            unlabeled = unlabeled.map_stages(lambda view: _weighted(view, unlabeled_weights))
        return replace(outputs, labeled=labeled, unlabeled=unlabeled)

    def update(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> None:
        # The class weights have not changed since `weigh`.
        applied, weights = self._stream_weights(), self._class_weights()
        sums = torch.zeros_like(self.mean_weights).repeat(2, 1)
        for index, view in enumerate((outputs.labeled, outputs.unlabeled)):
            if view is not None:
                labels = view.stages[self.balance.cascade_stage].labels
                sums[0, index] = weights[index][labels].sum()
                sums[1, index] = len(labels)
        all_reduce_sum([sums])
        moved = self.mean_weights.lerp(sums[0] / sums[1], 1 - self.balance.decay)
        self.mean_weights.copy_(torch.where(sums[1] > 0, moved, self.mean_weights))
        self.balance.update(outputs, applied)

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return self.balance.imbalance()

    def inert_reason(self, period: InertPeriod) -> str:
        return self.balance.inert_reason()

    def build_hooks(self) -> List[HookBase]:
        return [RecordArrays(self.name, lambda step: balance_arrays(self.balance))]

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        from ssod.methods.ci_ssod.report import balance_section

        return balance_section(run, cls.__name__)


def _weighted(view: Any, weights: Tensor) -> Any:
    """A stream's outputs, with each row's classification weight multiplied by its class's entry of
    `weights` (K+1,).
    """
    return replace(view, cls_weights=view.cls_weights * weights[view.labels])


def scale_balance(cfg: CfgNode, factor: float) -> None:
    """`Method.scale_config` for the keys that `ClassBalance` reads."""
    node = cfg.SSOD.GRADIENT_REWEIGHTING
    node.WARMUP_STEPS = round(node.WARMUP_STEPS / factor)
    node.EMA_DECAY = node.EMA_DECAY**factor
    node.LR *= factor


def balance_arrays(balance: ClassBalance) -> Dict[str, np.ndarray]:
    """Arrays that the report draws: the gradient matrix, foreground and background weights."""
    weights = balance.weights.cpu().numpy()
    return {
        "gradients": balance.gradients.cpu().numpy(),
        "weight": weights[:-1],
        "background_weight": weights[-1:],
    }
