"""A detector of `transformers` as a Detectron2 meta-architecture.

Shapes: N images; L decoder layers, Q queries, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ssod.detectors.detr.losses import Criterion
from ssod.detectors.detr.padding import ValidArea
from ssod.detectors.detr.predictions import Predictions, detections
from ssod.detectors.detr.stream_losses import stream_losses
from ssod.detectors.detr.targets import DetrLabels
from ssod.detectors.detr.weight_names import from_hugging_face
from ssod.detectors.features import FeatureGroup, FeatureMaps
from ssod.errors import UserError
from ssod.structures import make_targets


class TransformerDetector(nn.Module):
    """Base class: Detectron2's inputs and outputs around a detector of `transformers`.

    Args:
        detr: a detector of `transformers` whose `model.backbone` is `BackboneLevels`.
        criterion: its matching and losses. area: what its norms read the padding from.
        pixel_mean, pixel_std: for 0..255, a number a channel. input_format: "BGR" or "RGB".
        size_divisibility: images are padded to a multiple. input_size: (height, width) that every
            image is squashed to; empty: they keep their size.
        score_thresh: scores of detections are higher. max_detections: at most so many an image.
    """

    # Whether queries keep their meaning between two passes. Learned queries do, queries that the
    # encoder proposes do not.
    paired = False

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        detr: Any,
        criterion: Criterion,
        area: ValidArea,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
        size_divisibility: int,
        input_size: Sequence[int] = (),
        score_thresh: float = 0.0,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.detr = detr
        self.detr.loss_function = _all_layers
        self.criterion = criterion
        self.num_classes = criterion.num_classes
        self.area = area
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.input_size = tuple(input_size)
        self.score_thresh = score_thresh
        self.max_detections = max_detections
        # A query gives one box, of its best class. False: one for each class, as DETRs are
        # evaluated.
        self.one_class_per_query = False
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    @property
    def backbone(self) -> Backbone:
        """Detectron2's backbone inside."""
        return self.detr.model.backbone.body

    def class_heads(self) -> nn.ModuleList:
        """The classifier of each decoder layer; layers may share one."""
        return getattr(self.detr.model.decoder, "class_embed", None) or self.detr.class_embed

    def rename_weights(self, weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Weights of a Hugging Face checkpoint of this model under this model's names; weights of
        other files as they are.
        """
        return from_hugging_face(weights, self)

    # ---------------------------------------------------------------- Detectron2's interface

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> Any:
        """Training: a dict of losses. Eval: a list of {"instances": `Instances`}.

        Args:
            batched_inputs: dicts with "image", uint8 (3, H, W), and in training "instances";
                "height" and "width" of the result, if they differ from the image's.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = []
        for entry in batched_inputs:
            given = entry["instances"].to(self.device)
            targets.append(make_targets(given.image_size, given.gt_boxes.tensor, given.gt_classes))
        predictions = self.predict([entry["image"] for entry in batched_inputs], targets)
        labels = DetrLabels.of(targets, predictions.sizes)
        losses = stream_losses(self.criterion, predictions, labels)
        unused = [0.0 * tensor.sum() for tensor in self.idle(predictions)]
        return {**losses, "loss_cls": losses["loss_cls"] + sum(unused)}

    def inference(
        self, batched_inputs: List[Dict[str, Any]], do_postprocess: bool = True
    ) -> List[Any]:
        """Detections, in pixels of "height" and "width" if `do_postprocess`."""
        images = [entry["image"] for entry in batched_inputs]
        predictions = self.predict(images)
        found = self.found(predictions, images, self.score_thresh, self.one_class_per_query)
        if not do_postprocess:
            return found
        results = []
        for entry, instances in zip(batched_inputs, found):
            height, width = instances.image_size
            size = entry.get("height", height), entry.get("width", width)
            results.append({"instances": detector_postprocess(instances, *size)})
        return results

    # ---------------------------------------------------------------- its parts

    def found(
        self, predictions: Predictions, images: List[Tensor], floor: float, one_class: bool
    ) -> List[Instances]:
        """The detections of a pass over these images, in their pixels; see
        `predictions.detections`.
        """
        return [
            detections(
                predictions.decoder.logits[-1, index],
                predictions.decoder.boxes[-1, index],
                image_size=(int(image.shape[-2]), int(image.shape[-1])),
                box_size=predictions.sizes[index],
                floor=floor,
                most=self.max_detections,
                one_class=one_class,
            )
            for index, image in enumerate(images)
        ]

    def preprocess_image(self, batched_inputs: List[Dict[str, Any]]) -> ImageList:
        """Normalised images, squashed to `input_size` if there is one, in one padded tensor."""
        images = [entry["image"].to(self.device) for entry in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        if self.input_size:
            images = [
                F.interpolate(
                    image[None],
                    self.input_size,
                    mode="bilinear",
                    antialias=True,
                    align_corners=False,
                )[0]
                for image in images
            ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def predict(
        self, images: List[Tensor], targets: Optional[Sequence[Instances]] = None
    ) -> Predictions:
        """One pass.

        Args:
            images: N uint8 (3, H, W). targets: of a training pass, N from `make_targets`, for
                models with denoising.

        Raises:
            UserError: an image is too small for the number of queries.
        """
        batch = self.preprocess_image([{"image": image} for image in images])
        height, width = batch.tensor.shape[-2:]
        self._check_size(height, width)
        mask = torch.zeros((len(images), height, width), dtype=torch.bool, device=self.device)
        for row, (h, w) in zip(mask, batch.image_sizes):
            row[:h, :w] = True
        full = all(size == (height, width) for size in batch.image_sizes)
        sizes = self.box_sizes(images, batch)
        labels = None
        if self.training:
            assert targets is not None
            labels = DetrLabels.of(targets, sizes)
        caught: Dict[str, Dict[str, Tensor]] = {}
        inner = getattr(self.backbone, "bottom_up", self.backbone)
        hooks = [
            module.register_forward_hook(lambda m, a, output, n=name: caught.update({n: output}))
            for name, module in (("body", self.backbone), ("inner", inner))
        ]
        self.area.mask = None if full else mask
        try:
            output = self.detr(
                pixel_values=batch.tensor,
                pixel_mask=self.pixel_mask(mask),
                labels=None if labels is None else labels.as_dicts(),
            )
        finally:
            self.area.mask = None
            for hook in hooks:
                hook.remove()
        group = FeatureGroup(
            list(range(len(images))), caught["body"], caught["inner"], list(batch.image_sizes)
        )
        maps = FeatureMaps([group], len(images))
        return self.read(output, labels, maps, sizes)

    def idle(self, predictions: Predictions) -> List[Tensor]:
        """Tensors that the losses may leave without a gradient: parameters, and unused levels of
        the backbone. DDP needs a gradient for each, even a zero.
        """
        used = self.detr.model.backbone.in_features
        return [
            level
            for group in predictions.maps.groups
            for name, level in group.features.items()
            if name not in used
        ]

    def pixel_mask(self, mask: Tensor) -> Optional[Tensor]:
        """The mask of the padding for the model, (N, H, W), True inside."""
        return mask

    @abstractmethod
    def box_sizes(self, images: List[Tensor], batch: ImageList) -> List[Tuple[int, int]]:
        """(height, width) in pixels of each image that a box of 1 x 1 has."""

    @abstractmethod
    def read(
        self,
        output: Any,
        labels: Optional[DetrLabels],
        maps: FeatureMaps,
        sizes: List[Tuple[int, int]],
    ) -> Predictions:
        """The model's output in one form; `labels` None outside training."""

    def places(self, height: int, width: int) -> Optional[int]:
        """How many queries the encoder can propose in an image of this size; None: it does not."""
        return None

    def _check_size(self, height: int, width: int) -> None:
        places, queries = self.places(height, width), self.detr.config.num_queries
        if places is not None and places < queries:
            raise UserError(
                f"An image of {height} x {width} pixels has {places} places for {queries} queries: lower "
                "NUM_OBJECT_QUERIES, or use larger images (INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST)."
            )


def _all_layers(
    logits: Tensor,
    labels: Any,
    device: Any,
    pred_boxes: Tensor,
    config: Any,
    outputs_class: Tensor,
    outputs_coord: Tensor,
    **others: Any,
) -> Tuple[None, Dict[str, Any], None]:
    """Takes the place of the loss of `transformers`, and keeps the outputs of all layers."""
    return None, {"logits": outputs_class, "boxes": outputs_coord, **others}, None
