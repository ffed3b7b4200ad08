"""MixPL's pseudo MixUp and pseudo Mosaic (Chen et al., *Mixed Pseudo Labels for Semi-Supervised
Object Detection*, 2023), for either stream.

A pseudo-label that is missing teaches an object as background. In the mean of two images the object
is half hidden, so this lesson is weaker; and shrunk images make small objects of large ones, which
the teacher finds more often. Differences from the paper: an image is mixed *instead of* being seen
as it is, so that a step costs the same; partners are other images of the same batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.detectors.base import Need
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.base import METHOD_REGISTRY, InertPeriod, Method, StepContext
from ssod.methods.mixpl.mixing import Labelled, mixup, mosaic
from ssod.ranges import SHARE, Range
from ssod.structures import PseudoLabels, View, Views

STREAMS = ("labeled", "unlabeled")


@METHOD_REGISTRY.register()
class MixPL(Method):
    """Mixes strong views of a stream with each other, after the teacher has labelled them.

    List it after methods that change labels or images. Unlabelled images bring the labels that the
    main branch selected, labelled ones their own; all labels keep their weights. The paper's third
    part, labelled images with rare classes drawn more often, is `RepeatFactorSampling`.

    Args:
        streams: of `STREAMS`. mosaic_prob: probability that an image becomes a mosaic. mixup_prob:
            probability that one that does not is averaged with another.
    """

    needs: Tuple[Need, ...] = ()
    config_key = "MIXPL"
    groups = ("moved images",)
    excludes = ("mixed-in images", "main labels at half size", "labels mined at half size")
    ranges: Mapping[str, Range] = {"MOSAIC_PROB": SHARE, "MIXUP_PROB": SHARE}
    activity_unit = "share of the images that are mixed"

    def __init__(self, *, streams: Sequence[str], mosaic_prob: float, mixup_prob: float) -> None:
        super().__init__()
        unknown = [name for name in streams if name not in STREAMS]
        if unknown or not streams:
            raise UserError(
                f"SSOD.MIXPL.STREAMS is {tuple(streams)}: name {' or '.join(map(repr, STREAMS))}, or both."
            )
        self.streams, self.mosaic_prob, self.mixup_prob = tuple(streams), mosaic_prob, mixup_prob
        self.needs_unlabeled = "labeled" not in self.streams
        self._mixed = 0.0  # of the last step, for `activity`

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = cfg.SSOD.MIXPL = CfgNode()
        node.STREAMS = ("unlabeled",)  # or "labeled", or both
        node.MOSAIC_PROB = 0.33
        node.MIXUP_PROB = 0.5  # probability for images that are no mosaic

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {key.lower(): value for key, value in cfg.SSOD.MIXPL.items()}

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        self._mixed = 0.0
        seen, mixed = 0, 0
        unlabeled, labeled = views.unlabeled, views.labeled
        if "unlabeled" in self.streams and unlabeled is not None and unlabeled.pseudo is not None:
            parts = list(zip(unlabeled.images, unlabeled.pseudo.instances))
            made, count = self._mix(parts)
            rows = PseudoLabels([labels for _, labels in made])
            unlabeled = replace(unlabeled, images=[image for image, _ in made], pseudo=rows)
            seen, mixed = seen + len(made), mixed + count
        if "labeled" in self.streams:
            # The strong views come first; the weak ones stay as they are.
            strong = len(context.batch.labeled)
            made, count = self._mix(list(zip(labeled.images, labeled.targets))[:strong])
            labeled = _with(labeled, made)
            seen, mixed = seen + strong, mixed + count
        self._mixed = mixed / max(seen, 1)
        get_event_storage().put_scalar("mixpl/mixed_images", self._mixed)
        return replace(views, labeled=labeled, unlabeled=unlabeled)

    def _mix(self, parts: Sequence[Labelled]) -> Tuple[List[Labelled], int]:
        """Images and labels, mixed, and how many were."""
        total, mixed = len(parts), 0
        made: List[Labelled] = []
        for index, own in enumerate(parts):
            # Drawn whether used or not, so that a run does not depend on the batch's order.
            draws, order = torch.rand(2).tolist(), torch.randperm(total).tolist()
            others = [parts[place] for place in order if place != index]
            if others and draws[0] < self.mosaic_prob:
                three = [others[place % len(others)] for place in range(3)]
                own, mixed = mosaic([own, *three]), mixed + 1
            elif others and draws[1] < self.mixup_prob:
                own, mixed = mixup(own, others[0]), mixed + 1
            made.append(own)
        return made, mixed

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return self._mixed

    def inert_reason(self, period: InertPeriod) -> str:
        return (
            "no image was mixed: a batch needs two images of a stream for it (SSOD.IMS_PER_BATCH_UNLABELED, "
            "SOLVER.IMS_PER_BATCH, per GPU), and SSOD.MIXPL.MOSAIC_PROB "
            f"({self.mosaic_prob:g}) or MIXUP_PROB ({self.mixup_prob:g}) must be above 0"
        )


def _with(view: View, made: Sequence[Labelled]) -> View:
    """The view with its first images and targets replaced."""
    images: List[Tensor] = [image for image, _ in made]
    targets: List[Instances] = [labels for _, labels in made]
    return replace(
        view,
        images=images + view.images[len(made) :],
        targets=targets + view.targets[len(made) :],
    )
