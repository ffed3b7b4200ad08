"""The running number of positives that the losses of dense detectors are divided by."""

from __future__ import annotations

from typing import Dict

from torch import nn

from ssod.detectors.normalizer import LossNormalizer


class DenseNormalizer(LossNormalizer):
    """Detectron2's running number of positive locations, counted on labelled images.

    The unlabelled stream is divided by the same number for each of its images, not by its own
    positives. Those depend on the pseudo-labels: while many are missing, the loss of the background
    would be too large. Without labelled images the unlabelled ones are counted.

    Attributes:
        images: of the stream that was counted last, 0 before.
    """

    MOMENTUM = 0.9  # Detectron2's

    def __init__(self, model: nn.Module, first: float) -> None:
        super().__init__(model)
        self.first, self.images = first, 0

    @property
    def value(self) -> float:
        """The running number, of `images` images."""
        return float(getattr(self.model, self.NAME, self.first))

    def count(self, positives: int, images: int) -> None:
        """Moves the running number by the positives of one forward pass."""
        new = self.MOMENTUM * self.value + (1 - self.MOMENTUM) * max(positives, 1)
        setattr(self.model, self.NAME, new)
        self.images = images

    def state_dict(self) -> Dict[str, float]:
        return {**super().state_dict(), "images": self.images}

    def load_state_dict(self, state: Dict[str, float]) -> None:
        self.images = int(state.get("images", 0))
        super().load_state_dict({k: v for k, v in state.items() if k != "images"})
