"""Runs any Detectron2 meta-architecture through its losses alone.

The model takes images and boxes, as in Detectron2's own training, and returns a dict of losses.
Single boxes cannot be weighted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ssod.detectors.rcnn.outputs import TeacherOutputs
from ssod.errors import UserError
from ssod.structures import View, Views
from ssod.utils.comm import all_reduce_mean


@dataclass
class PlainViewOutputs:
    """One stream of a step: its view, and the model's losses on it, {} without images."""

    view: View
    losses: Dict[str, Tensor]


@dataclass
class PlainOutputs:
    """A step's streams. `unlabeled` is None during burn-in; `extra` is always empty."""

    labeled: PlainViewOutputs
    unlabeled: Optional[PlainViewOutputs] = None
    extra: Dict[str, Any] = field(default_factory=dict)


class LossNormalizer:
    """RetinaNet and FCOS divide their losses by a running number of positives that they keep
    outside of `state_dict`.

    Equal on all ranks, and in the checkpoint, so that a resumed run goes on exactly where it
    stopped.
    """

    NAME = "loss_normalizer"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def synchronize(self) -> None:
        """Replaces it by its mean over ranks; called on every rank after every forward."""
        value = torch.tensor(float(getattr(self.model, self.NAME, 0.0)), dtype=torch.float64)
        all_reduce_mean([value])
        if hasattr(self.model, self.NAME):
            setattr(self.model, self.NAME, float(value))

    def state_dict(self) -> Dict[str, float]:
        found = hasattr(self.model, self.NAME)
        return {self.NAME: float(getattr(self.model, self.NAME))} if found else {}

    def load_state_dict(self, state: Dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self.model, name, value)


class LossOnlyModel:
    """Drives any model, see `DetectorDriver`: runs it on a step's views, stream by stream.

    Args:
        model: a Detectron2 model in training mode: list of inputs -> dict of losses.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.normalizer = LossNormalizer(model)

    def label(self, teacher: nn.Module, images: List[Tensor]) -> TeacherOutputs:
        """Raises `UserError`: of an unknown model's labels only the stored ones can be used."""
        raise UserError(
            f"{type(teacher).__name__} does not label online: use python -m ssod.tools.pseudo_label."
        )

    def losses(self, outputs: PlainViewOutputs) -> Dict[str, Tensor]:
        """The model's own, as `run` found them."""
        return outputs.losses

    def checkpointables(self) -> Dict[str, Any]:
        """The running number of positives, which `state_dict` does not have."""
        return {"normalizer": self.normalizer}

    def run(self, views: Views) -> PlainOutputs:
        """The labelled stream first; a stream without images is left out."""
        labeled = PlainViewOutputs(views.labeled, {})
        if views.labeled.images:
            labeled.losses = self._losses(views.labeled.images, views.labeled.targets)
        outputs = PlainOutputs(labeled)
        if views.unlabeled is not None:
            losses = self._losses(views.unlabeled.images, views.unlabeled.targets)
            outputs.unlabeled = PlainViewOutputs(views.unlabeled, losses)
        self.normalizer.synchronize()
        return outputs

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Instances]) -> Dict[str, Tensor]:
        inputs: List[Dict[str, Any]] = []
        for image, target in zip(images, targets):
            plain = Instances(target.image_size)
            plain.gt_boxes = Boxes(target.gt_boxes.tensor)
            plain.gt_classes = target.gt_classes
            if target.has("gt_masks"):
                plain.gt_masks = target.gt_masks
            height, width = target.image_size
            inputs.append({"image": image, "instances": plain, "height": height, "width": width})
        return self.model(inputs)
