"""Cascade R-CNN, stage by stage: RoIs of the later stages, and the whole cascade on given boxes.

Shapes: N images, R RoIs over all of them, M labels of one image, K foreground classes (class K is
background).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.detectors.features import FeatureMaps
from ssod.detectors.rcnn.roi_heads import (
    BoxPredictions,
    background_column,
    classify,
    detect,
    select_detections,
)
from ssod.detectors.rcnn.stages import box_stage, is_cascade, stage_count

# Column of RoIs of later stages: the index of the first stage's RoI, in the same image, that each
# one was.
ORIGIN = "origin"
# Below a probability of this size its logarithm would be infinite.
_LEAST = 1e-30
# The smallest side of a box that is encoded, in pixels.
_LEAST_SIDE = 1e-3


@torch.no_grad()
def next_rois(
    heads: CascadeROIHeads,
    stage: int,
    rois: Sequence[Instances],
    predictions: BoxPredictions,
    targets: Sequence[Instances],
) -> List[Instances]:
    """RoIs of a later stage: the boxes that the stage before predicts, matched again.

    Detectron2's `_match_and_label_boxes` gives class and box. Here a RoI gets every `gt_*` column
    of the label that it matches at this stage's IoU.

    Args:
        stage: from 1 on. rois, predictions: of the stage before. targets: N `Instances`, M rows.

    Returns:
        N `Instances` with the columns of `sample_rois` and `origin`. RoIs whose box is empty are
        left out.
    """
    predictor = heads.box_predictor[stage - 1]
    boxes = predictor.predict_boxes((predictions.logits, predictions.deltas), list(rois))
    found = [
        _matched(heads, stage, roi, own, target) for roi, own, target in zip(rois, boxes, targets)
    ]
    storage = get_event_storage()
    counts = [(roi.gt_classes < heads.num_classes).sum() for roi in found]
    foreground = float(torch.stack(counts).sum()) if counts else 0.0
    images = max(len(found), 1)
    total = sum(len(roi) for roi in found)
    storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", foreground / images)
    storage.put_scalar(f"stage{stage}/roi_head/num_bg_samples", (total - foreground) / images)
    return found


def _matched(
    heads: CascadeROIHeads, stage: int, before: Instances, boxes: Tensor, target: Instances
) -> Instances:
    refined = Boxes(boxes.detach())
    refined.clip(before.image_size)
    kept = refined.nonempty().nonzero().flatten()
    refined = refined[kept]
    roi = Instances(before.image_size)
    roi.proposal_boxes = refined
    origin = before.get(ORIGIN) if before.has(ORIGIN) else torch.arange(len(before)).to(kept)
    roi.set(ORIGIN, origin[kept])
    index, kind = heads.proposal_matchers[stage](pairwise_iou(target.gt_boxes, refined))
    matched = kind == 1
    if len(target):
        classes = torch.where(matched, target.gt_classes[index], heads.num_classes)
        wanted = torch.where(matched[:, None], target.gt_boxes.tensor[index], refined.tensor)
    else:
        classes = torch.full_like(index, heads.num_classes)
        wanted = refined.tensor
    roi.gt_classes, roi.gt_boxes = classes, Boxes(wanted)
    roi.gt_index = torch.where(matched, index, -1)
    for name, values in target.get_fields().items():
        if not name.startswith("gt_") or roi.has(name) or not isinstance(values, Tensor):
            continue
        own = values[index] if len(target) else values.new_zeros((len(index), *values.shape[1:]))
        roi.set(name, background_column(name, own, ~matched))
    return roi


@dataclass
class StageRows:
    """RoIs of one stage, N `Instances`, and the predictions of that stage.

    first_counts: how many RoIs each image has in the first stage.
    """

    rois: List[Instances]
    predictions: BoxPredictions
    first_counts: List[int]

    def part(self, images: slice) -> Dict[str, Any]:
        """The RoIs of some images, as arguments of `ViewOutputs`."""
        before = sum(len(roi) for roi in self.rois[: images.start])
        rois = self.rois[images]
        rows = slice(before, before + sum(len(roi) for roi in rois))
        empty = self.predictions.logits.new_zeros(0)  # of a stream without images in this step
        origin = None
        if any(roi.has(ORIGIN) for roi in rois):
            starts = [
                sum(self.first_counts[images.start : images.start + i]) for i in range(len(rois))
            ]
            origin = torch.cat([roi.get(ORIGIN) + start for roi, start in zip(rois, starts)])
        return {
            "rois": rois,
            "predictions": self.predictions[rows],
            "cls_weights": torch.cat([empty] + [roi.gt_roi_cls_weight for roi in rois]),
            "reg_weights": torch.cat([empty] + [roi.gt_roi_reg_weight for roi in rois]),
            "origin": origin,
        }


def run_stages(
    roi_heads: Any, maps: FeatureMaps, rois: List[Instances], targets: Sequence[Instances]
) -> List[StageRows]:
    """Every stage of the box head in training, on RoIs of the first one.

    Args:
        rois: from `sample_rois`, N `Instances`. targets: the labels that later stages match their
            RoIs with.
    """
    found: List[StageRows] = []
    counts = [len(roi) for roi in rois]
    for stage in range(stage_count(roi_heads)):
        if stage:
            rois = next_rois(roi_heads, stage, rois, found[-1].predictions, targets)
        boxes = [roi.proposal_boxes for roi in rois]
        predictions = classify(box_stage(roi_heads, stage), maps, boxes)
        found.append(StageRows(rois, predictions, counts))
    return found


def stage_losses(losses: Dict[str, Tensor], roi_heads: Any, stage: int) -> Dict[str, Tensor]:
    """Detectron2's names of the losses. With a cascade, those of stage 1 end with `_stage1`."""
    if not is_cascade(roi_heads):
        return losses
    return {f"{name}_stage{stage}": loss for name, loss in losses.items()}


@dataclass
class CascadeResult:
    """The whole cascade's predictions for given boxes.

    Attributes:
        features: (R, D) of the first stage. probabilities: N tensors (r, K+1), the mean over the
            stages. boxes: N tensors (r, 4), those of the last stage, not clipped.
    """

    features: Tensor
    probabilities: List[Tensor]
    boxes: List[Tensor]


def run_cascade(
    heads: CascadeROIHeads,
    maps: FeatureMaps,
    boxes: Sequence[Boxes],
) -> CascadeResult:
    """All stages on N `Boxes`, as at test time: later stages see the boxes of the one before."""
    sizes = _image_sizes(maps)
    own, predicted = list(boxes), [box.tensor for box in boxes]
    scores: List[Sequence[Tensor]] = []
    features: List[Tensor] = []
    for stage in range(stage_count(heads)):
        predictor = heads.box_predictor[stage]
        found = classify(box_stage(heads, stage), maps, own)
        features.append(found.features)
        proposals = [Instances(size, proposal_boxes=box) for size, box in zip(sizes, own)]
        raw = (found.logits, found.deltas)
        scores.append(predictor.predict_probs(raw, proposals))
        predicted = predictor.predict_boxes(raw, proposals)
        own = [Boxes(box.detach().clone()) for box in predicted]
        for box, size in zip(own, sizes):
            box.clip(size)
    mean = [sum(parts) * (1.0 / len(scores)) for parts in zip(*scores)]
    return CascadeResult(features[0], mean, list(predicted))  # type: ignore[arg-type]


def _image_sizes(maps: FeatureMaps) -> List[Any]:
    sizes: List[Any] = [None] * maps.num_images
    for group in maps.groups:
        for index, size in zip(group.indices, group.image_sizes):
            sizes[index] = size
    return sizes


def judge_boxes(roi_heads: Any, maps: FeatureMaps, boxes: Sequence[Boxes]) -> BoxPredictions:
    """The whole detector's predictions for N `Boxes`, with all stages of a cascade.

    The result reads like that of one stage, `box_stage(roi_heads)`. Its logits are the logarithms
    of the mean probabilities, its deltas lead from the given boxes to the last stage's.
    """
    if not is_cascade(roi_heads):
        return classify(roi_heads, maps, boxes)
    return as_one_stage(roi_heads, run_cascade(roi_heads, maps, boxes), boxes)


def as_one_stage(
    heads: CascadeROIHeads, found: CascadeResult, boxes: Sequence[Boxes]
) -> BoxPredictions:
    """`found` as predictions of the first stage, see `judge_boxes`."""
    probabilities = torch.cat(found.probabilities)
    transform = heads.box_predictor[0].box2box_transform
    source = _with_area(torch.cat([own.tensor for own in boxes]))
    deltas = transform.get_deltas(source, _with_area(torch.cat(found.boxes)))
    return BoxPredictions(found.features, probabilities.clamp(min=_LEAST).log(), deltas)


def _with_area(boxes: Tensor) -> Tensor:
    least = boxes[:, :2] + _LEAST_SIDE
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], least)], dim=1)


def detect_regions(
    roi_heads: Any, maps: FeatureMaps, proposals: List[Instances], score_floor: float
) -> Tuple[BoxPredictions, List[Instances]]:
    """Predictions of all proposals, as `judge_boxes` gives them, and detections (see `detect`).

    With a cascade, the detections have the mean probabilities and the last stage's boxes.
    """
    boxes = [proposal.proposal_boxes for proposal in proposals]
    if not is_cascade(roi_heads):
        predictions = classify(roi_heads, maps, boxes)
        return predictions, detect(roi_heads, proposals, predictions, score_floor)
    found = run_cascade(roi_heads, maps, boxes)
    rows = select_detections(
        roi_heads.box_predictor[-1],
        found.boxes,
        found.probabilities,
        [proposal.image_size for proposal in proposals],
        score_floor,
    )
    return as_one_stage(roi_heads, found, boxes), rows
