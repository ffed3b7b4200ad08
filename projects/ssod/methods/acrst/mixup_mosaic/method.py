"""MixUp and Mosaic of whole images, which ACRST's Table 5 compares with (Zhou et al.,
Instant-Teaching, CVPR 2021).

The strong view of an unlabelled image is mixed with *labelled* images. The loader's workers know
their boxes; they do not know those of other unlabelled images, which the teacher labels later. The
unlabelled image keeps its place, so that pseudo-boxes of the weak view remain valid. MixUp blends
it with one labelled image. Mosaic covers three of four tiles around a random point with labelled
images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.data.augmentation import StrongAugmentation
from ssod.data.mapper import UnreadableImage, read_image
from ssod.data.masks import decode_mask
from ssod.data.packed import PackedRecords
from ssod.data.records import trained_annotations
from ssod.data.snapshots import Snapshot
from ssod.detectors.base import Capability, Need
from ssod.detectors.outputs import Outputs
from ssod.errors import UserError
from ssod.methods.acrst.mixup_mosaic.mixing import (
    MixedLabels,
    Tile,
    cover_tile,
    draw_mosaic,
    mix_labels,
)
from ssod.methods.base import (
    METHOD_REGISTRY,
    InertPeriod,
    Method,
    StepContext,
    TrainingData,
)
from ssod.structures import PseudoLabels, Sample, Views

Skipped = List[Tuple[str, str]]


class MixWithLabeled:
    """The view transform. It mixes labelled images into the strong view of unlabelled samples and
    describes the result in `extras`.

    Args:
        name: the key of the entry in `extras`. records: Detectron2 dataset dicts of the labelled
            images.
        image_format, strong, flip: how labelled images are read, recoloured and mirrored, like a
            strong view, with the probability `flip_prob`. attempts: how many images are tried if
            files are damaged.
        mosaic_prob: probability of a Mosaic. mosaic_center: the tiles meet between these shares of
            each side.
        mixup_prob: probability of a MixUp if there is no Mosaic. alpha: MixUp draws from
            Beta(alpha, alpha).
        min_visible: boxes lose their label if a smaller share of them is left.
        masks: whether the records have masks, which are mixed in with the boxes.
    """

    def __init__(
        self,
        name: str,
        records: Sequence[Dict[str, Any]],
        *,
        image_format: str,
        strong: Optional[StrongAugmentation],
        flip: bool,
        flip_prob: float = 0.5,
        attempts: int = 10,
        mosaic_prob: float,
        mosaic_center: Tuple[float, float],
        mixup_prob: float,
        alpha: float,
        min_visible: float,
        masks: bool = False,
    ) -> None:
        self.name, self.masks = name, masks
        self.records = PackedRecords.of(records)
        self.image_format, self.strong, self.flip = image_format, strong, flip
        self.flip_prob, self.attempts = flip_prob, attempts
        self.mosaic_prob, self.mixup_prob = mosaic_prob, mixup_prob
        self.mosaic_center = mosaic_center
        self.alpha, self.min_visible = alpha, min_visible

    def __call__(
        self, sample: Sample, rng: np.random.Generator, snapshot: Optional[Snapshot]
    ) -> Sample:
        if sample.ref.stream != "unlabeled":
            return sample
        height, width = sample.strong.shape[1:]
        if rng.random() < self.mosaic_prob and min(height, width) >= 2:
            return self._mosaic(sample, rng)
        if rng.random() < self.mixup_prob:
            return self._mixup(sample, rng)
        return sample

    def _mosaic(self, sample: Sample, rng: np.random.Generator) -> Sample:
        canvas = sample.strong.permute(1, 2, 0).numpy().copy()
        own, *others = draw_mosaic(canvas.shape[0], canvas.shape[1], self.mosaic_center, rng)
        boxes, classes = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
        masks = [np.zeros((0, *canvas.shape[:2]), bool)]
        skipped = list(sample.skipped)
        for x0, y0, x1, y1 in others:
            tile = self._tile(y1 - y0, x1 - x0, rng, skipped)
            if tile is None:
                return replace(sample, skipped=skipped)
            canvas[y0:y1, x0:x1] = tile.image
            boxes.append(tile.boxes + np.array([x0, y0, x0, y0], np.float32))
            classes.append(tile.classes)
            if tile.masks is not None:
                placed = np.zeros((len(tile.masks), *canvas.shape[:2]), bool)
                placed[:, y0:y1, x0:x1] = tile.masks
                masks.append(placed)
        labels = MixedLabels(
            boxes=torch.from_numpy(np.concatenate(boxes)),
            classes=torch.from_numpy(np.concatenate(classes)),
            weight=1.0,
            own_region=torch.tensor(own, dtype=torch.float32),
            own_weight=1.0,
            masks=torch.from_numpy(np.concatenate(masks)) if self.masks else None,
        )
        return self._mixed(sample, canvas, labels, skipped)

    def _mixup(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample.strong.permute(1, 2, 0).numpy()
        height, width = image.shape[:2]
        share = float(rng.beta(self.alpha, self.alpha))
        skipped = list(sample.skipped)
        tile = self._tile(height, width, rng, skipped)
        if tile is None:
            return replace(sample, skipped=skipped)
        blend = share * image.astype(np.float32) + (1.0 - share) * tile.image
        labels = MixedLabels(
            boxes=torch.from_numpy(tile.boxes),
            classes=torch.from_numpy(tile.classes),
            weight=1.0 - share,
            own_region=torch.tensor([0.0, 0.0, width, height]),
            own_weight=share,
            masks=None if tile.masks is None else torch.from_numpy(tile.masks),
        )
        return self._mixed(sample, np.rint(blend).astype(np.uint8), labels, skipped)

    def _mixed(
        self, sample: Sample, image: np.ndarray, labels: MixedLabels, skipped: Skipped
    ) -> Sample:
        strong = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        extras = {**sample.extras, self.name: labels}
        return replace(sample, strong=strong, extras=extras, skipped=skipped)

    def _tile(
        self, height: int, width: int, rng: np.random.Generator, skipped: Skipped
    ) -> Optional[Tile]:
        """A random window of a random labelled image. Unreadable files are added to `skipped`.

        None if no file can be read.
        """
        for _ in range(self.attempts):
            record = self.records[int(rng.integers(len(self.records)))]
            try:
                image = read_image(record, self.image_format)
            except UnreadableImage as error:
                skipped.append((error.file_name, f"{error.reason}; it is not mixed in"))
                continue
            found = trained_annotations(record)
            boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in found]
            whole = Tile(
                image,
                np.array(boxes, np.float64).reshape(-1, 4),
                np.array([a["category_id"] for a in found], np.int64),
            )
            if self.masks:
                masks = [decode_mask(a["segmentation"]) for a in found]
                whole.masks = np.array(masks, bool).reshape(-1, *image.shape[:2])
            tile = cover_tile(whole, height, width, rng, self.min_visible)
            if self.flip and rng.random() < self.flip_prob:
                tile.image = tile.image[:, ::-1]
                tile.boxes = tile.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
                tile.boxes = tile.boxes.astype(np.float32)
                if tile.masks is not None:
                    tile.masks = np.ascontiguousarray(tile.masks[:, :, ::-1])
            if self.strong is not None:
                swap = slice(None, None, -1 if self.image_format == "RGB" else 1)
                tile.image = self.strong(tile.image[:, :, swap], rng)[:, :, swap]
            return tile
        return None


@METHOD_REGISTRY.register()
class MixUpMosaic(Method):
    """Mixes labelled images into the strong views of unlabelled ones. It is an alternative to
    CropBank.

    MixUp's labels have the weights of their images: lambda for the unlabelled image's own labels, 1
    - lambda for the labels mixed in.
    """

    needs: Tuple[Need, ...] = ()
    needs_hint = "set SSOD.MIXUP_MOSAIC.MIXUP_PROB to 0, which leaves Mosaic"
    config_key = "MIXUP_MOSAIC"
    groups = ("mixed-in images",)
    activity_unit = "boxes mixed in, per image"

    def __init__(
        self,
        *,
        mosaic_prob: float,
        mosaic_center: Tuple[float, float],
        mixup_prob: float,
        mixup_alpha: float,
        min_visible: float,
        image_format: str,
        strong: Optional[StrongAugmentation],
        flip: bool,
        flip_prob: float = 0.5,
        attempts: int = 10,
        masks: bool = False,
    ) -> None:
        super().__init__()
        shares = {"MOSAIC_PROB": mosaic_prob, "MIXUP_PROB": mixup_prob, "FLIP_PROB": flip_prob}
        for key, value in {**shares, "MIN_VISIBLE_FRACTION": min_visible}.items():
            if not 0 <= value <= 1:
                raise UserError(
                    f"SSOD.MIXUP_MOSAIC.{key} is {value}: use a number between 0 and 1."
                )
        if len(mosaic_center) != 2 or not 0 <= mosaic_center[0] <= mosaic_center[1] <= 1:
            raise UserError(
                f"SSOD.MIXUP_MOSAIC.MOSAIC_CENTER is {mosaic_center}: use two rising numbers between 0 and 1."
            )
        if mixup_alpha <= 0:
            raise UserError(
                f"SSOD.MIXUP_MOSAIC.MIXUP_ALPHA is {mixup_alpha}: use a positive number."
            )
        if attempts < 1:
            raise UserError(f"SSOD.MIXUP_MOSAIC.ATTEMPTS is {attempts}: use 1 or more.")
        if mixup_prob > 0:
            self.needs = (Capability.WEIGHTS,)
        self.mosaic_prob, self.mixup_prob, self.mixup_alpha = mosaic_prob, mixup_prob, mixup_alpha
        self.mosaic_center = mosaic_center
        self.min_visible, self.image_format = min_visible, image_format
        self.strong, self.flip = strong, flip
        self.flip_prob, self.attempts, self.masks = flip_prob, attempts, masks
        self.records: Sequence[Dict[str, Any]] = []

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.SSOD.MIXUP_MOSAIC = CfgNode()
        cfg.SSOD.MIXUP_MOSAIC.MOSAIC_PROB = 0.5
        # The four tiles of a mosaic meet at a point between these shares of each side.
        cfg.SSOD.MIXUP_MOSAIC.MOSAIC_CENTER = (0.3, 0.7)
        cfg.SSOD.MIXUP_MOSAIC.MIXUP_PROB = 0.5  # probability for images that are no mosaic
        cfg.SSOD.MIXUP_MOSAIC.MIXUP_ALPHA = 1.5  # lambda ~ Beta(alpha, alpha)
        # Boxes at the edge of a tile lose their label if a smaller share of them is left.
        cfg.SSOD.MIXUP_MOSAIC.MIN_VISIBLE_FRACTION = 0.25
        # Probability of mirroring a labelled image that is mixed in, if INPUT.RANDOM_FLIP is
        # "horizontal".
        cfg.SSOD.MIXUP_MOSAIC.FLIP_PROB = 0.5
        # The number of labelled images that are tried if files are damaged.
        cfg.SSOD.MIXUP_MOSAIC.ATTEMPTS = 10

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        node = cfg.SSOD.MIXUP_MOSAIC
        return {
            "mosaic_prob": node.MOSAIC_PROB,
            "mosaic_center": tuple(node.MOSAIC_CENTER),
            "mixup_prob": node.MIXUP_PROB,
            "mixup_alpha": node.MIXUP_ALPHA,
            "min_visible": node.MIN_VISIBLE_FRACTION,
            "image_format": cfg.INPUT.FORMAT,
            "strong": StrongAugmentation.from_config(cfg),
            "flip": cfg.INPUT.RANDOM_FLIP == "horizontal",
            "flip_prob": node.FLIP_PROB,
            "attempts": node.ATTEMPTS,
            "masks": cfg.MODEL.MASK_ON,
        }

    def setup(self, data: TrainingData) -> None:
        self.records = data.labeled

    def view_transform(self) -> Optional[Callable]:
        if not self.records:  # `setup` has not been called
            return None
        return MixWithLabeled(
            self.name,
            self.records,
            image_format=self.image_format,
            strong=self.strong,
            flip=self.flip,
            flip_prob=self.flip_prob,
            attempts=self.attempts,
            mosaic_prob=self.mosaic_prob,
            mosaic_center=self.mosaic_center,
            mixup_prob=self.mixup_prob,
            alpha=self.mixup_alpha,
            min_visible=self.min_visible,
            masks=self.masks,
        )

    def views(self, views: Views, pseudo: Optional[PseudoLabels], context: StepContext) -> Views:
        if views.unlabeled is None or views.unlabeled.pseudo is None:
            return views
        rows, added = [], 0
        for row, sample in zip(views.unlabeled.pseudo.instances, context.batch.unlabeled):
            mixed: Optional[MixedLabels] = sample.extras.get(self.name)
            if mixed is not None:
                row = mix_labels(row, mixed, self.min_visible)
                added += len(mixed.boxes)
            rows.append(row)
        storage = get_event_storage()
        storage.put_scalar("mixup_mosaic/mixed_in_boxes_per_image", added / max(len(rows), 1))
        return replace(views, unlabeled=replace(views.unlabeled, pseudo=PseudoLabels(rows)))

    def activity(
        self, outputs: Optional[Outputs], pseudo: Optional[PseudoLabels], context: StepContext
    ) -> Union[float, Tensor]:
        samples = context.batch.unlabeled
        mixed = [sample.extras.get(self.name) for sample in samples]
        return sum(len(one.boxes) for one in mixed if one is not None) / max(len(samples), 1)

    def inert_reason(self, period: InertPeriod) -> str:
        return (
            "no labelled box was mixed into an unlabelled image; raise SSOD.MIXUP_MOSAIC.MOSAIC_PROB "
            f"({self.mosaic_prob:g}) or MIXUP_PROB ({self.mixup_prob:g})"
        )
