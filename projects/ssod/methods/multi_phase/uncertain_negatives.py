"""Down-weights background RoIs that may be objects without a pseudo-label.

Shapes: N images, R RoIs over all of them, M the largest number of RoIs of one image, D box-head
channels, E embedding channels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.detectors.rcnn.stages import box_stage
from ssod.errors import UserError
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)
from ssod.methods.multi_phase.heat_map import DrawWeights, WeightedImage, weight_section
from ssod.methods.multi_phase.uncertainty import (
    background_weights,
    similarity_loss,
    soft_sampling_weights,
)
from ssod.structures import PseudoLabels

if TYPE_CHECKING:
    from ssod.plotting.run_data import RunData
    from ssod.plotting.section import Section

MODES = ("full", "soft_sampling")
# Steps between two values of the mean weight. Each value waits for the GPU.
_SCALAR_PERIOD = 20


@dataclass
class _PaddedRois:
    """RoIs image by image: boxes (N, M, 4), features (N, M, D), valid and positive (N, M) bool."""

    boxes: Tensor
    features: Tensor
    valid: Tensor
    positive: Tensor


@METHOD_REGISTRY.register()
class UncertainNegatives(Method):
    """Region-uncertainty guided RoI re-weighting (Eq. 2-7) on the background RoIs of unlabelled
    images.

    Similarity is measured on a linear embedding of detached box-head features. The embedding learns
    from the overlap of boxes on both streams. Labelled boxes are correct, and burn-in has no other
    boxes.

    Args:
        a, b, c1, c2: parameters of Eq. 5. mode: "full", or "soft_sampling" for the overlap factor
            alone.
        similarity_loss_weight: weight of Eq. 7. embedding_dim: E.
        draw_period: steps between heat maps, 0 for none. folder: their folder. image_format: "BGR"
            or "RGB".
    """

    config_key = "UNCERTAIN_NEGATIVES"
    activity_unit = "1 - weight of unlabelled background RoIs, mean"

    def __init__(
        self,
        *,
        a: float,
        b: float,
        c1: float,
        c2: float,
        mode: str,
        similarity_loss_weight: float,
        embedding_dim: int,
        draw_period: int,
        folder: str,
        image_format: str,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UserError(
                f"SSOD.UNCERTAIN_NEGATIVES.MODE is {mode!r}: use {' or '.join(map(repr, MODES))}."
            )
        if not 0.0 <= a <= 1.0:
            raise UserError(f"SSOD.UNCERTAIN_NEGATIVES.A is {a}: use a number from 0 to 1.")
        if embedding_dim < 1:
            raise UserError(
                f"SSOD.UNCERTAIN_NEGATIVES.EMBEDDING_DIM is {embedding_dim}: use 1 or more."
            )
        self.a, self.b, self.c1, self.c2 = a, b, c1, c2
        self.mode = mode
        self.similarity_loss_weight = similarity_loss_weight
        self.embedding_dim = embedding_dim
        self.draw_period = draw_period
        self.folder = folder
        self.image_format = image_format
        self.class_names: List[str] = []
        # The first unlabelled image of the last step, for the heat map; not part of the state.
        self.last: Optional[WeightedImage] = None

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        node = CfgNode()
        node.A = 0.25
        node.B = 50.0
        node.C1 = 20.0
        node.C2 = 14.0
        node.MODE = "full"  # or "soft_sampling": the overlap factor alone
        node.SIMILARITY_LOSS_WEIGHT = 1.0
        node.EMBEDDING_DIM = 128
        cfg.SSOD.UNCERTAIN_NEGATIVES = node

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.UNCERTAIN_NEGATIVES
        return {
            **{key.lower(): node[key] for key in ("A", "B", "C1", "C2", "MODE", "EMBEDDING_DIM")},
            "similarity_loss_weight": node.SIMILARITY_LOSS_WEIGHT,
            "draw_period": cfg.SSOD.VIS_PERIOD,
            "folder": os.path.join(cfg.OUTPUT_DIR, "uncertain_negatives"),
            "image_format": cfg.INPUT.FORMAT,
        }

    def setup(self, data: TrainingData) -> None:
        self.class_names = list(data.class_names)

    def attach(self, student: GeneralizedRCNN) -> None:
        if self.mode == "full":
            channels = box_stage(student.roi_heads).box_predictor.cls_score.in_features
            self.embedding = nn.Linear(channels, self.embedding_dim)

    def weigh(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Outputs:
        unlabeled = outputs.unlabeled
        if unlabeled is None:
            return outputs
        rois = _pad([unlabeled])
        boxes, mask = rois.boxes, rois.positive
        with torch.no_grad():
            if self.mode == "full":
                own = self._embed(rois.features)
                weights = background_weights(
                    boxes, own, boxes, own, self.a, self.b, self.c1, self.c2, mask
                )
            else:
                weights = soft_sampling_weights(boxes, boxes, self.a, self.b, self.c1, mask)
        rows = torch.cat([row[: len(roi)] for row, roi in zip(weights, unlabeled.rois)])
        background = unlabeled.labels == _background(unlabeled)
        rows = torch.where(background, rows, 1.0)
        reduced = ((1 - rows) * background).sum() / background.sum().clamp(min=1)
        context.shared[self.name] = torch.where(reduced > 1e-6, reduced, 0.0)
        first = unlabeled.rois[0]
        self.last = WeightedImage(
            unlabeled.view.images[0],
            first.proposal_boxes.tensor,
            rows[: len(first)],
            background[: len(first)],
            unlabeled.view.targets[0],
        )
        if context.step % _SCALAR_PERIOD == 0:
            get_event_storage().put_scalar("uncertain_negatives/mean_weight", 1 - float(reduced))
        weighted = unlabeled.map_stages(lambda view: _weighted(view, rows))
        return replace(outputs, unlabeled=weighted)

    def losses(
        self, outputs: Outputs, pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Dict[str, Tensor]:
        if self.mode != "full":
            return {}
        rois = _pad([view for view in (outputs.labeled, outputs.unlabeled) if view is not None])
        embedded = self._embed(rois.features)
        pairs = rois.valid[:, :, None] & rois.positive[:, None, :]
        loss = similarity_loss(embedded, embedded, rois.boxes, rois.boxes, pair_mask=pairs)
        return {"loss_similarity": self.similarity_loss_weight * loss}

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        return context.shared.get(self.name, 0.0)

    def inert_reason(self, period: InertPeriod) -> str:
        if period.selected:
            return "every background RoI of unlabelled images weighs 1; look at SSOD.UNCERTAIN_NEGATIVES.A, B, C1 and C2"
        return super().inert_reason(period)

    def build_hooks(self) -> List[HookBase]:
        if self.draw_period <= 0 or not comm.is_main_process():
            return []
        return [
            DrawWeights(
                lambda: self.last,
                self.draw_period,
                self.folder,
                self.class_names,
                self.image_format,
            )
        ]

    @classmethod
    def report_section(cls, run: "RunData") -> Optional["Section"]:
        return weight_section(run)

    def _embed(self, features: Tensor) -> Tensor:
        # This and all later operations are in single precision.
        with torch.autocast(features.device.type, enabled=False):
            return self.embedding(features.float())


def _weighted(view: ViewOutputs, rows: Tensor) -> ViewOutputs:
    """Applies `rows` (R,), weights of the first stage's RoIs, to the background RoIs of this stage.

    The embedding uses the first stage's features, so a RoI keeps its weight in later stages, unless
    it is matched with a label there.
    """
    if view.origin is not None:
        rows = torch.where(view.labels == _background(view), rows[view.origin], 1.0)
    return replace(view, cls_weights=view.cls_weights * rows)


def _background(view: ViewOutputs) -> int:
    return view.predictions.logits.shape[1] - 1


def _pad(views: Sequence[ViewOutputs]) -> _PaddedRois:
    """Pads all images of the views with rows of zeros up to the largest number of RoIs.

    The counts are known on the CPU, so a whole batch takes a few kernels and no synchronisation.
    """
    rois = [roi for view in views for roi in view.rois]
    counts = [len(roi) for roi in rois]
    features = torch.cat([view.predictions.features.detach().flatten(1) for view in views])
    foreground = torch.cat([view.labels < _background(view) for view in views if view.rois])
    boxes = [roi.proposal_boxes.tensor for roi in rois]
    sizes = torch.tensor(counts, device=features.device)
    slots = torch.arange(max(counts), device=features.device)
    return _PaddedRois(
        boxes=pad_sequence(boxes, batch_first=True),
        features=pad_sequence(features.split(counts), batch_first=True),
        valid=slots < sizes[:, None],
        positive=pad_sequence(foreground.split(counts), batch_first=True),
    )
