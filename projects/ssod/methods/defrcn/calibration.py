"""The prototypical calibration block (DeFRCN, section 3.3): an ImageNet backbone corrects scores.

Shapes: M boxes of one image, B labelled boxes, K classes, D channels of the backbone's last stage.
Boxes are XYXY in pixels of the image file.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, BoxMode
from torch import Tensor, nn

from ssod.data.mapper import read_image
from ssod.data.records import trained_annotations
from ssod.utils.progress import progress


def class_prototypes(features: Tensor, classes: Tensor, num_classes: int) -> Tuple[Tensor, Tensor]:
    """The mean feature of each class's labelled boxes.

    Args:
        features: (B, D). classes: (B,) int64.

    Returns:
        (K, D), and bool (K,) of the classes that have any box.

    Example:
        >>> features, classes = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([0, 0])
        >>> class_prototypes(features, classes, num_classes=2)
        (tensor([[2., 1.],
                [0., 0.]]), tensor([ True, False]))
    """
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, classes, features)
    counts = torch.bincount(classes, minlength=num_classes)
    return sums / counts.clamp(min=1)[:, None], counts > 0


def calibrated_scores(
    scores: Tensor,
    classes: Tensor,
    features: Tensor,
    prototypes: Tensor,
    calibrated: Tensor,
    alpha: float = 0.5,
    lowest: float = 0.05,
) -> Tensor:
    """`alpha * score + (1 - alpha) * cos(feature, prototype of the class)` for calibrated classes.
    Other scores stay.

    Args:
        scores: (M,). classes: (M,). features: (M, D). prototypes: (K, D). calibrated: (K,) bool,
            the minority classes that have a prototype. lowest: scores of at most this value stay.

    Returns:
        (M,).

    Example:
        >>> scores, classes = torch.tensor([0.6, 0.6]), torch.tensor([0, 1])
        >>> features, prototypes = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
        >>> calibrated_scores(scores, classes, features, prototypes, torch.tensor([True, False]))
        tensor([0.8000, 0.6000])
    """
    cosine = F.cosine_similarity(features, prototypes[classes], dim=1)
    mixed = alpha * scores + (1 - alpha) * cosine
    return torch.where(calibrated[classes] & (scores > lowest), mixed, scores)


class ImageFeatures:
    """Features of boxes from the last stage of a backbone. Images are resized as for testing.

    Args:
        detector: the detector whose backbone is used, without the FPN. Its ImageNet weights must be
            loaded.
        image_format: "BGR" or "RGB", the detector's channel order. resize: shortest edge and
            longest edge.
    """

    def __init__(
        self, detector: GeneralizedRCNN, image_format: str, resize: Tuple[int, int]
    ) -> None:
        self.detector, self.image_format = detector.eval(), image_format
        self.bottom_up: Any = getattr(detector.backbone, "bottom_up", detector.backbone)
        shapes = self.bottom_up.output_shape()
        self.name = max(shapes, key=lambda name: shapes[name].stride)
        scale = 1.0 / shapes[self.name].stride
        self.pooler = ROIPooler(1, (scale,), sampling_ratio=0, pooler_type="ROIAlignV2")
        self.augmentation = T.ResizeShortestEdge(*resize)

    @torch.no_grad()
    def __call__(self, record: Dict[str, Any], boxes: Tensor) -> Tensor:
        """(M, 4) boxes of a record's image -> (M, D)."""
        image = read_image(record, self.image_format)
        transform = self.augmentation.get_transform(image)
        resized = np.ascontiguousarray(transform.apply_image(image).transpose(2, 0, 1))
        inputs = self.detector.preprocess_image([{"image": torch.from_numpy(resized)}])
        maps = self.bottom_up(inputs.tensor)[self.name]
        moved = torch.from_numpy(transform.apply_box(boxes.cpu().numpy())).to(maps)
        return self.pooler([maps], [Boxes(moved)]).flatten(1)


def labeled_prototypes(
    extract: ImageFeatures, records: Sequence[Dict[str, Any]], num_classes: int
) -> Tuple[Tensor, Tensor]:
    """`class_prototypes` of the labelled images' boxes."""
    features: List[Tensor] = []
    classes: List[int] = []
    for record in progress(records, "prototypes"):
        found = trained_annotations(record)
        if not found:
            continue
        boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in found]
        features.append(extract(record, torch.tensor(boxes, dtype=torch.float32)))
        classes += [a["category_id"] for a in found]
    table = torch.cat(features)
    return class_prototypes(table, torch.tensor(classes, device=table.device), num_classes)


class CalibratedDetector(nn.Module):
    """A detector at test time whose scores of minority classes are calibrated.

    Args:
        model: any Detectron2 detector. extract: features of the ImageNet backbone. prototypes,
            calibrated: see `calibrated_scores`.
    """

    def __init__(
        self,
        model: nn.Module,
        extract: ImageFeatures,
        prototypes: Tensor,
        calibrated: Tensor,
        alpha: float,
        lowest: float,
    ) -> None:
        super().__init__()
        self.model, self.extract = model, extract
        self.prototypes, self.calibrated = prototypes, calibrated
        self.alpha, self.lowest = alpha, lowest

    def forward(self, inputs: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
        """Detectron2's inputs, with "file_name" -> its outputs."""
        outputs = self.model(inputs)
        for record, output in zip(inputs, outputs):
            found = output["instances"]
            if len(found):
                features = self.extract(record, found.pred_boxes.tensor).to(found.scores)
                found.scores = calibrated_scores(
                    found.scores,
                    found.pred_classes,
                    features,
                    self.prototypes.to(found.scores),
                    self.calibrated.to(found.pred_classes.device),
                    self.alpha,
                    self.lowest,
                )
        return outputs
