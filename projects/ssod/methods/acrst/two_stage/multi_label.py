"""The multi-label module: which classes an image contains (ACRST, "Semi-supervised Multi-label
Classification").

Shapes: N images, K foreground classes, C channels of the last backbone stage.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from ssod.detectors.features import FeatureMaps


def average_pool(maps: Tensor, image_sizes: Sequence[Tuple[int, int]], stride: int) -> Tensor:
    """Mean over each image's own part of a padded map, so that padding does not change the result.

    Args:
        maps: (N, C, h, w). image_sizes: (height, width) of each image before padding, in pixels.
            stride: stride of the maps.

    Returns:
        (N, C) in single precision.
    """
    sizes = torch.tensor(image_sizes, device=maps.device)
    height, width = ((sizes + stride - 1) // stride).unbind(dim=1)
    rows = torch.arange(maps.shape[2], device=maps.device) < height[:, None]
    columns = torch.arange(maps.shape[3], device=maps.device) < width[:, None]
    inside = (rows[:, :, None] & columns[:, None, :]).float()[:, None]
    return (maps.float() * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))


class MultiLabelHead(nn.Module):
    """Global average pooling of the last backbone stage, then one logit for each class.

    An untrained head predicts each class's prior, so it does not have to learn the frequencies
    first.

    Args:
        stage: name of the backbone output. stride: stride of that output. in_channels: C.
        prior: (K,) the classes' shares of the images, between 0 and 1.

    Attributes:
        labeled_steps: int64 scalar, optimiser steps with labelled images so far. A run that
            branches off another one (SSOD.BURN_IN_CHECKPOINT) takes it with the weights.
    """

    labeled_steps: Tensor

    def __init__(self, *, stage: str, stride: int, in_channels: int, prior: Tensor) -> None:
        super().__init__()
        self.stage, self.stride = stage, stride
        self.linear = nn.Linear(in_channels, len(prior))
        nn.init.normal_(self.linear.weight, std=0.01)
        with torch.no_grad():
            self.linear.bias.copy_(prior.logit())
        self.register_buffer("labeled_steps", torch.zeros((), dtype=torch.int64))

    @classmethod
    def for_detector(
        cls, detector: GeneralizedRCNN, prior: Optional[Tensor] = None
    ) -> "MultiLabelHead":
        """Makes the head for a detector's deepest backbone stage. If there is an FPN, it is the
        stage before the FPN.

        Args:
            prior: (K,). None: 0.5 for every class.
        """
        backbone = getattr(detector.backbone, "bottom_up", detector.backbone)
        shapes = backbone.output_shape()
        stage = max(shapes, key=lambda name: shapes[name].stride)
        return cls(
            stage=stage,
            stride=shapes[stage].stride,
            in_channels=shapes[stage].channels,
            prior=torch.full((detector.roi_heads.num_classes,), 0.5) if prior is None else prior,
        )

    def forward(self, maps: FeatureMaps) -> Tensor:
        """(N, K) logits in single precision, in the order of the images; N may be 0."""
        order: List[int] = []
        pooled = [self.linear.weight.new_empty(0, self.linear.in_features)]
        for group in maps.groups:
            order += group.indices
            pooled.append(average_pool(group.bottom_up[self.stage], group.image_sizes, self.stride))
        features = torch.cat(pooled)
        ranks = torch.tensor(order, dtype=torch.long, device=features.device).argsort()
        return self.linear(features[ranks]).float()


def image_prior(class_sets: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """(K,) share of the images that contain each class. The least count is half an image, the
    largest is half an image less than all.

    Args:
        class_sets: the classes of each image's labels. Repetitions do not matter.
    """
    present = torch.zeros(num_classes)
    for labels in class_sets:
        present[list(set(labels))] += 1
    return prior_of_counts(present, len(class_sets))


def prior_of_counts(present: Tensor, count: int) -> Tensor:
    """`image_prior` from the (K,) images that contain each class, of `count` images."""
    if count == 0:
        return torch.full_like(present, 0.5)
    return (present / count).clamp(0.5 / count, 1 - 0.5 / count)


def present_classes(targets: Sequence[Instances], num_classes: int, device: torch.device) -> Tensor:
    """(N, K) bool: which classes occur in each image's labels (`gt_classes`)."""
    present = torch.zeros(len(targets), num_classes, dtype=torch.bool, device=device)
    for row, target in zip(present, targets):
        row[target.gt_classes] = True
    return present


def multi_label_loss(logits: Tensor, present: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal binary cross-entropy (Lin et al., ICCV 2017), summed over the classes and averaged over
    the images.

    Args:
        logits: (N, K). present: (N, K) bool. gamma: focusing parameter. alpha: weight of present
            classes. Absent classes have 1 - alpha.

    Returns:
        A scalar, 0 without images.
    """
    loss = sigmoid_focal_loss(logits.float(), present.float(), alpha=alpha, gamma=gamma)
    return loss.sum() / max(len(logits), 1)
