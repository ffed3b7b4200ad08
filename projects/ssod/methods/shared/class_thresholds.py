"""What all methods with one score threshold per class share."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ssod.methods.base import Method, StepContext
from ssod.structures import PseudoLabels


class ClassThresholds(Method):
    """Keeps pseudo-labels with `score >= threshold of their class`; their boxes classify but do not regress.

    It replaces the fixed threshold and other class thresholds. Filters that look at something else than the
    score (ACRST's image-level stage) can be listed as well: a label must pass all.
    """

    selects_pseudo_labels = True

    @abstractmethod
    def thresholds(self, context: StepContext) -> Tensor:
        """(K,) scores."""

    def refine(self, pseudo: PseudoLabels, context: StepContext) -> PseudoLabels:
        thresholds = self.thresholds(context)
        return pseudo.select([row.scores >= thresholds[row.gt_classes] for row in pseudo.instances])
