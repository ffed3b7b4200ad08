"""Values that flow through one training step.

Shapes: N images, M boxes of one image, R sampled RoIs, K foreground classes (class K is
background), A anchors. Boxes are XYXY in absolute pixels of the image tensor they belong to; images
are uint8 BGR tensors (3, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

# Loss weights a pseudo-label row carries, one column each. They follow a row through matching as
# `gt_<name>`.
WEIGHT_COLUMNS = ("rpn_cls_weight", "rpn_reg_weight", "roi_cls_weight", "roi_reg_weight")


@dataclass(frozen=True)
class SampleRef:
    """What the batch sampler asks the loader for; everything random about the sample follows from
    it.

    Attributes:
        stream: "labeled" or "unlabeled".
        position: how many samples of this stream were drawn before it, over all ranks.
        index: which image of the stream's dataset.
        snapshots: the snapshot in effect for each publishing method, as (method name, snapshot id)
            pairs.
    """

    stream: str
    position: int
    index: int
    snapshots: Tuple[Tuple[str, int], ...] = ()


@dataclass
class Geometry:
    """The affine map from the original image to a view: `p_view = matrix[:, :2] @ p + matrix[:,
    2]`.

    Attributes:
        matrix: float64 (2, 3).
        original_size: (height, width) of the image file.
    """

    matrix: np.ndarray
    original_size: Tuple[int, int]

    def boxes_to_original(self, boxes: Tensor) -> Tensor:
        """Maps (M, 4) boxes of the view to the original image, clipped to it."""
        height, width = self.original_size
        linear = np.linalg.inv(self.matrix[:, :2])
        a = torch.as_tensor(linear, dtype=torch.float64, device=boxes.device)
        b = torch.as_tensor(self.matrix[:, 2], dtype=torch.float64, device=boxes.device)
        xy = boxes.to(torch.float64)
        # All four corners, so that rotations by multiples of 90 degrees work too.
        corners = xy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        corners = (corners - b) @ a.T
        low, high = corners.amin(dim=1), corners.amax(dim=1)
        limit = torch.tensor([width, height], dtype=torch.float64, device=boxes.device)
        low, high = low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)
        return torch.cat([low, high], dim=1).to(boxes.dtype)

    def masks_to_original(self, masks: Tensor) -> Tensor:
        """Maps bool (M, H, W) masks of the view to bool (M, height, width) of the original image.

        Each pixel takes the view's pixel under its centre; what the view does not show is False.
        """
        height, width = self.original_size
        matrix = torch.as_tensor(self.matrix, dtype=torch.float64, device=masks.device)
        x = torch.arange(width, device=masks.device) + 0.5
        y = torch.arange(height, device=masks.device)[:, None] + 0.5
        columns, rows = (
            (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2]).floor().long() for i in (0, 1)
        )
        last_row, last_column = masks.shape[1] - 1, masks.shape[2] - 1
        inside = (columns >= 0) & (columns <= last_column) & (rows >= 0) & (rows <= last_row)
        return masks[:, rows.clamp(0, last_row), columns.clamp(0, last_column)] & inside

    def boxes_to_view(self, boxes: Tensor, view_size: Tuple[int, int]) -> Tensor:
        """Maps (M, 4) boxes of the original image to a view of (height, width), clipped to it."""
        height, width = view_size
        linear = torch.as_tensor(self.matrix[:, :2], dtype=torch.float64, device=boxes.device)
        shift = torch.as_tensor(self.matrix[:, 2], dtype=torch.float64, device=boxes.device)
        xy = boxes.to(torch.float64)
        corners = xy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        corners = corners @ linear.T + shift
        limit = torch.tensor([width, height], dtype=torch.float64, device=boxes.device)
        low = corners.amin(dim=1).clamp(min=0).minimum(limit)
        high = corners.amax(dim=1).clamp(min=0).minimum(limit)
        return torch.cat([low, high], dim=1).to(boxes.dtype)


@dataclass
class Sample:
    """One mapped image.

    Attributes:
        ref: the request it answers.
        file_name, image_id: of the image that was read in the end.
        weak, strong: the two views, uint8 (3, H, W) in the model's channel order, same geometry.
        geometry: from the image file to both views.
        instances: `gt_boxes` and `gt_classes` in view coordinates, with `MODEL.MASK_ON` also
            `gt_masks` (`BitMasks`); None for unlabelled images.
        strong_instances: those of the strong view, where a method changed it; None: the same.
        stored: of unlabelled images with stored labels (`SSOD.PSEUDO_LABELS`): `pred_boxes`,
            `scores`, `pred_classes`, with `MODEL.MASK_ON` also `pred_masks` (M, H, W), in view
            coordinates; None where the teacher labels online.
        extras: what methods' view transforms add, one entry a method.
        skipped: files that could not be read and were replaced by this image, with the reason.
    """

    ref: SampleRef
    file_name: str
    image_id: Any
    weak: Tensor
    strong: Tensor
    geometry: Geometry
    instances: Optional[Instances] = None
    strong_instances: Optional[Instances] = None
    stored: Optional[Instances] = None
    extras: Dict[str, Any] = field(default_factory=dict)
    skipped: List[Tuple[str, str]] = field(default_factory=list)


@dataclass
class SSODBatch:
    """One micro-batch of one rank.

    Attributes:
        labeled, unlabeled: samples; `unlabeled` is empty during burn-in and in supervised runs.
        sampler_state: the batch sampler's state after this batch (plain Python), for the
            checkpoint.
    """

    labeled: List[Sample]
    unlabeled: List[Sample]
    sampler_state: Dict[str, Any] = field(default_factory=dict)


def make_targets(
    image_size: Tuple[int, int],
    boxes: Tensor,
    classes: Tensor,
    scores: Optional[Tensor] = None,
    weights: Optional[Mapping[str, Tensor]] = None,
    masks: Any = None,
) -> Instances:
    """Training targets of one image, with every column that the losses read.

    Args:
        image_size: (height, width) of the view.
        boxes: (M, 4). classes: (M,) int64.
        scores: (M,) confidence of each label; 1 where not given (human labels).
        weights: (M,) float for any of `WEIGHT_COLUMNS`; 1 where not given.
        masks: M masks of the view, `BitMasks` or another class that the step knows; None where
            only boxes are trained.

    Returns:
        `Instances` with gt_boxes, gt_classes, gt_scores, `gt_<column>` for each of
        `WEIGHT_COLUMNS`, gt_masks where masks are given, and gt_index, (M,) 0 to M-1: what is
        matched with a label knows which one.

    Example:
        >>> targets = make_targets((64, 64), torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0]))
        >>> targets.gt_scores, targets.gt_roi_cls_weight
        (tensor([1.]), tensor([1.]))
    """
    targets = Instances(image_size)
    targets.gt_boxes = Boxes(boxes)
    targets.gt_classes = classes
    if masks is not None:
        targets.gt_masks = masks
    ones = boxes.new_ones(len(boxes))
    targets.gt_scores = ones if scores is None else scores
    for column in WEIGHT_COLUMNS:
        targets.set(f"gt_{column}", weights[column] if weights and column in weights else ones)
    targets.gt_index = torch.arange(len(boxes), device=boxes.device)
    return targets


@dataclass
class PseudoLabels:
    """The teacher's detections on the weak views, one `Instances` an image; rows are never dropped.

    Columns of each `Instances`: `gt_boxes` (Boxes), `gt_classes` (M,) int64, `scores` (M,) float,
    `selected` (M,) bool, the rows the main branch trains on, and the float `WEIGHT_COLUMNS`.
    `rpn_selected` (M,) bool is there if a method chose other rows for the RPN than for the RoI
    head. `gt_masks` (M masks of the view) is there where the teacher finds masks. The defaults are
    Unbiased Teacher's: classification weighs 1, box regression 0.
    """

    instances: List[Instances]

    @classmethod
    def from_detections(cls, detections: List[Instances]) -> "PseudoLabels":
        """From predictions with pred_boxes, scores and pred_classes; every row starts selected.

        `pred_masks`, where they are, become `gt_masks`: bool (M, H, W) tensors as `BitMasks`,
        other classes as they are.
        """
        rows = []
        for found in detections:
            row = Instances(found.image_size)
            row.gt_boxes = Boxes(found.pred_boxes.tensor.detach())
            row.gt_classes = found.pred_classes
            if found.has("pred_masks"):
                masks = found.pred_masks
                row.gt_masks = BitMasks(masks) if isinstance(masks, Tensor) else masks
            row.scores = found.scores.detach()
            row.selected = torch.ones_like(row.scores, dtype=torch.bool)
            for column in WEIGHT_COLUMNS:
                value = 0.0 if column.endswith("reg_weight") else 1.0
                row.set(column, torch.full_like(row.scores, value))
            rows.append(row)
        return cls(rows)

    def with_columns(self, columns: List[Dict[str, Tensor]]) -> "PseudoLabels":
        """A copy in which each image's columns are replaced or added; nothing is changed in
        place.
        """
        rows = []
        for old, new in zip(self.instances, columns):
            row = Instances(old.image_size, **old.get_fields())
            for name, value in new.items():
                row.set(name, value)
            rows.append(row)
        return PseudoLabels(rows)

    def select(
        self, masks: List[Tensor], rpn_masks: Optional[List[Tensor]] = None
    ) -> "PseudoLabels":
        """Keeps of the selected rows those in `masks`, one bool (M,) an image.

        The RPN keeps those in `rpn_masks` instead, where they are given.
        """
        columns = []
        for index, (row, mask) in enumerate(zip(self.instances, masks)):
            column = {"selected": row.selected & mask}
            if rpn_masks is not None or row.has("rpn_selected"):
                before = row.rpn_selected if row.has("rpn_selected") else row.selected
                column["rpn_selected"] = before & (rpn_masks[index] if rpn_masks else mask)
            columns.append(column)
        return self.with_columns(columns)

    def to_targets(self, rpn: bool = False) -> List[Instances]:
        """Training targets of the rows selected for the RoI head, or for the RPN (see
        `make_targets`).
        """
        targets = []
        for row in self.instances:
            kept = row[row.rpn_selected if rpn and row.has("rpn_selected") else row.selected]
            weights = {column: kept.get(column) for column in WEIGHT_COLUMNS}
            targets.append(
                make_targets(
                    kept.image_size,
                    kept.gt_boxes.tensor,
                    kept.gt_classes,
                    kept.scores,
                    weights,
                    kept.gt_masks if kept.has("gt_masks") else None,
                )
            )
        return targets


def append_labels(own: Instances, new: Mapping[str, Any]) -> Instances:
    """The labels `own`, followed by new ones.

    Args:
        own: with the columns of `PseudoLabels` and any others.
        new: columns of the new labels, `scores` among them; boxes and masks are tensors. Columns
            that are missing or None are 0: only the method that made them knows what they mean.
            Columns that `own` lacks are left out.
    """
    count = len(new["scores"])
    joined = Instances(own.image_size)
    for name, values in own.get_fields().items():
        kind = type(values) if isinstance(values, (Boxes, BitMasks)) else None
        if kind is not None:
            values = values.tensor
        more = new.get(name)
        if more is None:
            more = values.new_zeros((count, *values.shape[1:]))
        column = torch.cat([values, more])
        joined.set(name, column if kind is None else kind(column))
    return joined


@dataclass
class View:
    """Images that go through the student in one pass, with their training targets.

    Attributes:
        images: uint8 tensors (3, H, W) in the model's channel order, on its device.
        targets: from `make_targets`, one an image. Of unlabelled images they follow from `pseudo`
            after the `views` phase.
        rpn_targets: the same for the RPN; None: `targets` (see `PseudoLabels`).
        pseudo: all labels of the unlabelled images, selected or not. A method that pastes objects
            replaces it by one with more (and fewer) rows; the teacher's own labels are what the
            phases get as `pseudo`.
        sample_rois: (proposals, targets), N `Instances` each -> N `Instances` as
            `ssod.detectors.rcnn.roi_heads.sample_rois` gives them, of a method that assigns RoIs in
            its own way; None: that function.
    """

    images: List[Tensor]
    targets: List[Instances]
    pseudo: Optional[PseudoLabels] = None
    sample_rois: Optional[Callable[[List[Instances], List[Instances]], List[Instances]]] = None
    rpn_targets: Optional[List[Instances]] = None


@dataclass
class Views:
    """What the student sees in one step.

    Attributes:
        labeled: labelled images (strong views, then weak ones unless switched off).
        unlabeled: strong views of the unlabelled images with pseudo-targets; None during burn-in.
        extra: images that methods add, by method name; they pass through the backbone only.
    """

    labeled: View
    unlabeled: Optional[View] = None
    extra: Dict[str, List[Tensor]] = field(default_factory=dict)
