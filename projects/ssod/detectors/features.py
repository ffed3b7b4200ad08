"""Backbone features of images of any size, in as few passes as is fastest (see grouping.py).

Shapes: N images, R boxes over all of them, D channels after the box head.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes
from torch import Tensor, nn

from ssod.detectors.grouping import CALL_COST_PIXELS, group_images


@dataclass
class FeatureGroup:
    """Images that went through the backbone together.

    Attributes:
        indices: which images of the pass, ascending.
        features: backbone outputs by level, (n, C, h, w). bottom_up: those before the FPN (or the
            same).
        image_sizes: (height, width) before padding, one an image.
    """

    indices: List[int]
    features: Dict[str, Tensor]
    bottom_up: Dict[str, Tensor]
    image_sizes: List[Tuple[int, int]]


@dataclass
class FeatureMaps:
    """Features of N images; `groups` cover them without overlap."""

    groups: List[FeatureGroup]
    num_images: int

    def select(self, start: int, stop: int) -> "FeatureMaps":
        """Features of images start..stop-1, renumbered from 0; views, not copies."""
        groups = []
        for group in self.groups:
            rows = [row for row, index in enumerate(group.indices) if start <= index < stop]
            if not rows:
                continue
            part = slice(rows[0], rows[-1] + 1)  # indices ascend, so the rows are consecutive
            groups.append(
                FeatureGroup(
                    indices=[index - start for index in group.indices[part]],
                    features={name: maps[part] for name, maps in group.features.items()},
                    bottom_up={name: maps[part] for name, maps in group.bottom_up.items()},
                    image_sizes=group.image_sizes[part],
                )
            )
        return FeatureMaps(groups, stop - start)

    def box_features(self, roi_heads: Any, boxes: Sequence[Boxes]) -> Tensor:
        """Pools boxes and applies the box head.

        Args:
            roi_heads: a `StandardROIHeads`, or a stage of a cascade. boxes: N `Boxes`, in
                coordinates of their image.

        Returns:
            (R, D), in the order of the images.
        """
        return self.pool(roi_heads.box_in_features, roi_heads.box_pooler, roi_heads.box_head, boxes)

    def pool(
        self,
        names: Sequence[str],
        pooler: Callable[[List[Tensor], List[Boxes]], Tensor],
        head: Callable[[Tensor], Tensor],
        boxes: Sequence[Boxes],
    ) -> Tensor:
        """Pools boxes and applies a head.

        Args:
            names: the levels that `pooler` gets. pooler: (maps, boxes) -> (r, C, P, P). head: of
                what it gives, row by row. boxes: N `Boxes`, in coordinates of their image.

        Returns:
            The head's output, R rows in the order of the images.
        """
        parts: List[Tensor] = [torch.empty(0)] * self.num_images
        for group in self.groups:
            # In single precision: Detectron2 casts the boxes to the features' type, and bfloat16
            # has no odd numbers above 256.
            levels = [group.features[name].float() for name in names]
            chosen = [boxes[index] for index in group.indices]
            pooled = head(pooler(levels, chosen))
            if len(self.groups) == 1:
                return pooled
            for index, part in zip(group.indices, pooled.split([len(b) for b in chosen])):
                parts[index] = part
        return torch.cat(parts)


def batch_norms(model: nn.Module) -> List[Any]:
    """Batch-norm layers with running statistics that training updates (frozen ones are another
    class).
    """
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in model.modules() if isinstance(m, kind) and m.track_running_stats]


@contextmanager
def keep_running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch as usual, but its running statistics stay."""
    layers = [(layer, layer.momentum) for layer in batch_norms(model)]
    for layer, _ in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum


def extract_features(
    model: GeneralizedRCNN,
    images: Sequence[Tensor],
    batches: Optional[Sequence[List[int]]] = None,
) -> FeatureMaps:
    """Runs normalisation, padding and the backbone.

    With live batch norm all images go into one batch, whatever their size. A batch of one image
    would be normalised by its own statistics alone, which loses accuracy.

    Args:
        model: a `GeneralizedRCNN`. images: uint8 (3, H, W) tensors.
        batches: indices of the images that share a pass. None: the fastest way.
    """
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    if batches is not None:
        pass
    elif model.training and batch_norms(model):
        batches = [list(range(len(images)))]
    else:
        cost = CALL_COST_PIXELS.get(model.device.type, CALL_COST_PIXELS["cuda"])
        batches = group_images(sizes, model.backbone.size_divisibility, cost)
    groups = []
    for indices in batches:
        batch = model.preprocess_image([{"image": images[index]} for index in indices])
        caught: List[Dict[str, Tensor]] = []
        inner = getattr(model.backbone, "bottom_up", None)
        if inner is None:
            features = model.backbone(batch.tensor)
            caught.append(features)
        else:
            handle = inner.register_forward_hook(lambda module, args, output: caught.append(output))
            try:
                features = model.backbone(batch.tensor)
            finally:
                handle.remove()
        groups.append(FeatureGroup(indices, features, caught[-1], list(batch.image_sizes)))
    return FeatureMaps(groups, len(images))
