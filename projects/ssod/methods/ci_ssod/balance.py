"""The running gradient matrix and the class weights that follow from it. GbR and GbT share one
matrix.

Shapes: R RoIs, K foreground classes (class K is background).
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ssod.config import class_number
from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.stages import stage_count
from ssod.errors import UserError
from ssod.methods.ci_ssod.class_weights import (
    alignment_step,
    jacobi_target,
    solve_class_weights,
    weights_from_logits,
)
from ssod.methods.ci_ssod.gradient_matrix import gradient_matrix
from ssod.utils.comm import all_reduce_sum

# The labelled and the unlabelled stream's weights, (K+1,) each.
StreamWeights = Tuple[Tensor, Tensor]


class ClassBalance(nn.Module):
    """A moving average of the gradient matrix and weights `w = (K+1) softmax(a)` that approach its
    balance.

    Args:
        num_classes: K. decay: decay of the moving average, per micro-batch. lr, momentum: settings
            of SGD on `a`. align_weight: weight of L_align.
        solver: "jacobi", or "direct", which sets `a` to the logarithm of the clamped direct
            solution.
        bounds: bounds of the target before the logarithm, and of the weights.
        warmup: optimiser steps that fill the matrix before `a` starts to move.
        micro_batches: number per optimiser step. The matrix is updated with each of them, and `a`
            moves after the last.
        loss: "cross_entropy" or "focal" with `gamma`. unsup_loss_weight: lambda_u.
        cascade_stage: the stage of a cascade whose classifier is measured. The first is 0.
    """

    gradients: Tensor
    logits: Tensor
    velocity: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        decay: float,
        lr: float,
        momentum: float,
        align_weight: float,
        solver: str,
        bounds: Tuple[float, float],
        warmup: int,
        micro_batches: int,
        loss: str,
        gamma: float,
        unsup_loss_weight: float,
        cascade_stage: int = 0,
    ) -> None:
        super().__init__()
        node = "SSOD.GRADIENT_REWEIGHTING"
        if solver not in ("jacobi", "direct"):
            raise UserError(f"{node}.SOLVER is {solver!r}: use 'jacobi' or 'direct'.")
        if len(bounds) != 2 or not 0 < bounds[0] <= 1 <= bounds[1]:
            raise UserError(
                f"{node}.BOUNDS is {tuple(bounds)}: use (low, high) with 0 < low <= 1 <= high."
            )
        if not 0 <= decay < 1:
            raise UserError(f"{node}.EMA_DECAY is {decay}: use a value from 0 to below 1.")
        if not 0 <= momentum < 1:
            raise UserError(f"{node}.MOMENTUM is {momentum}: use a value from 0 to below 1.")
        if not align_weight > 0:
            raise UserError(f"{node}.ALIGN_WEIGHT is {align_weight}: use a value above 0.")
        largest = (num_classes + 1) / (2 * align_weight)
        if not 0 < lr <= largest:
            raise UserError(
                f"{node}.LR is {lr}: use a value above 0, at most {largest:g}, or steps overshoot."
            )
        self.decay, self.solver = decay, solver
        self.lr, self.momentum, self.align_weight = lr, momentum, align_weight
        self.low, self.high = bounds
        self.first_update = max(warmup, 1) * micro_batches
        self.micro_batches = micro_batches
        self.loss, self.gamma = loss, gamma
        self.unsup_loss_weight = unsup_loss_weight
        self.cascade_stage = cascade_stage
        self.register_buffer("gradients", torch.zeros(num_classes + 1, num_classes + 1))
        self.register_buffer("logits", torch.zeros(num_classes + 1))
        self.register_buffer("velocity", torch.zeros(num_classes + 1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ClassBalance":
        """Builds the balance from SSOD.GRADIENT_REWEIGHTING, whose keys count optimiser steps."""
        node, parts = cfg.SSOD.GRADIENT_REWEIGHTING, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
        return cls(
            num_classes=class_number(cfg)[1],
            decay=node.EMA_DECAY ** (1 / parts),
            lr=node.LR,
            momentum=node.MOMENTUM,
            align_weight=node.ALIGN_WEIGHT,
            solver=node.SOLVER,
            bounds=tuple(node.BOUNDS),
            warmup=node.WARMUP_STEPS,
            micro_batches=parts,
            loss=cfg.SSOD.ROI_CLS_LOSS,
            gamma=cfg.SSOD.FOCAL_GAMMA,
            unsup_loss_weight=cfg.SSOD.UNSUP_LOSS_WEIGHT,
            cascade_stage=node.CASCADE_STAGE,
        )

    def attach(self, student: Any) -> None:
        """Raises `UserError` if the box head has no such stage."""
        stages = stage_count(getattr(student, "roi_heads", None))
        if not 0 <= self.cascade_stage < stages:
            raise UserError(
                f"SSOD.GRADIENT_REWEIGHTING.CASCADE_STAGE is {self.cascade_stage}: the first stage is 0, and this detector has "
                f"{stages}: use a number below that."
            )

    @property
    def weights(self) -> Tensor:
        """(K+1,) weights within the bounds. Their sum is K+1 unless a bound limits one. They are 1
        during warm-up.
        """
        return weights_from_logits(self.logits).clamp(self.low, self.high)

    def imbalance(self) -> Tensor:
        """Mean of |w - 1| over the foreground classes. It is exactly 0 if no weight has moved."""
        distance = (self.weights[:-1] - 1).abs().mean()
        return torch.where(distance > 1e-5, distance, 0.0)

    def inert_reason(self) -> str:
        """See `Method.inert_reason`."""
        updates = int(self.updates)
        if updates <= self.first_update:
            passed = f"{updates // self.micro_batches} of {self.first_update // self.micro_batches} have passed"
            return (
                f"its weights stay at 1 for SSOD.GRADIENT_REWEIGHTING.WARMUP_STEPS, and {passed}; "
                "lower that key in a short run"
            )
        return "no class has had a gradient yet; check that the images have labels"

    def measure(self, outputs: Outputs, applied: Optional[StreamWeights]) -> Tensor:
        """This micro-batch's gradient matrix on this rank, divided by the same numbers as the loss.

        Args:
            applied: class weights that `cls_weights` already contain. They are divided out of the
                matrix. None: there are none.

        Returns:
            (K+1, K+1).
        """
        total = torch.zeros_like(self.gradients)
        streams = ((outputs.labeled, 1.0), (outputs.unlabeled, self.unsup_loss_weight))
        for index, (view, factor) in enumerate(streams):
            if view is None or len(view.cls_weights) == 0:
                continue
            view = view.stages[self.cascade_stage]
            labels = view.labels
            weights = view.cls_weights * (factor / len(labels))
            if applied is not None:
                weights = weights / applied[index][labels]
            kind = {"cross_entropy": "ce", "focal": "focal"}[self.loss]
            logits = view.predictions.logits
            total += gradient_matrix(logits, labels, kind, self.gamma, roi_weights=weights)
        return total

    @torch.no_grad()
    def update(self, outputs: Outputs, applied: Optional[StreamWeights] = None) -> None:
        """Adds a micro-batch. Every rank must call it. The arguments are those of `measure`."""
        batch = self.measure(outputs, applied)
        all_reduce_sum([batch])
        # If the loss has diverged, the trainer reports that, so this code must not fail before it.
        self.gradients.lerp_(torch.nan_to_num(batch), 1 - self.decay)
        self.updates += 1
        if self.solver == "direct":
            solution = solve_class_weights(self.gradients).clamp(self.low, self.high)
            moved, velocity = solution.log(), self.velocity
        else:
            moved, velocity = alignment_step(
                self.logits,
                self.velocity,
                jacobi_target(self.gradients, self.weights, self.low, self.high),
                lr=self.lr,
                momentum=self.momentum,
                loss_weight=self.align_weight,
            )
        # Tensors avoid a GPU synchronisation.
        due = (self.updates >= self.first_update) & (self.updates % self.micro_batches == 0)
        self.logits.copy_(torch.where(due, moved, self.logits))
        self.velocity.copy_(torch.where(due, velocity, self.velocity))
