"""Turns a dataset dict into the weak and the strong view of one image.

Shapes: views are uint8 (3, H, W), in the model's channel order, same geometry; M boxes are XYXY in
pixels of the views. All random choices follow from (seed, stream, position) alone, never from a
generator's earlier state.
"""

from __future__ import annotations

import random
import zlib
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional, Protocol, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ssod.data.augmentation import StrongAugmentation
from ssod.data.masks import Rle, bit_masks, decode_mask, tight_boxes
from ssod.data.pixels import read_pixels
from ssod.data.sampler import STREAMS
from ssod.data.snapshots import Snapshot, SnapshotReader
from ssod.errors import UserError
from ssod.structures import Geometry, Sample, SampleRef


class ViewTransform(Protocol):
    """A method's change to a sample, applied in the loader's workers. It must be picklable.

    Transforms run in the methods' order.
    """

    def __call__(
        self, sample: Sample, rng: np.random.Generator, snapshot: Optional[Snapshot]
    ) -> Sample:
        """Returns a changed copy (`dataclasses.replace`). It must not change the given tensors.

        Args:
            sample: both views; `sample.ref.index` is the image that was read, in its stream's
                dataset.
            rng: depends only on (seed, stream, position, method). Draw from no other generator.
            snapshot: the method's own snapshot in effect at this step, memory-mapped. None before
                the first.
        """
        ...


class UnreadableImage(Exception):
    """An image file that is missing, damaged, empty or of another size than its annotation says."""

    def __init__(self, file_name: str, reason: str) -> None:
        super().__init__(file_name, reason)
        self.file_name, self.reason = file_name, reason


def sample_rng(seed: int, ref: SampleRef, purpose: str) -> np.random.Generator:
    """The generator for one purpose at one position of a stream. It is independent of all
    others.
    """
    key = (STREAMS.index(ref.stream), ref.position, zlib.crc32(purpose.encode()))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@contextmanager
def seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """Seeds the global generators of NumPy, `random` and torch (CPU) from `rng`, and restores them
    afterwards.

    Detectron2's augmentations draw from NumPy's generator. A user's own may draw from the others.
    """
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()
    seeds = [int(word) for word in rng.integers(0, 2**32, 3)]
    np.random.seed(seeds[0])
    random.seed(seeds[1])
    torch.default_generator.manual_seed(seeds[2])
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
        torch.set_rng_state(before[2])


def affine_matrix(transforms: T.TransformList, height: int, width: int) -> np.ndarray:
    """The float64 (2, 3) matrix of `transforms` on a `height` x `width` image.

    Raises:
        UserError: the transforms are not affine (this is checked at two further points).
    """
    scale = np.array([width, height], dtype=np.float64)
    unit = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.3, 0.6]], dtype=np.float64)
    points = unit * scale
    mapped = np.asarray(transforms.apply_coords(points.copy()), dtype=np.float64)
    origin, x_end, y_end = mapped[:3]
    matrix = np.stack([(x_end - origin) / width, (y_end - origin) / height, origin], axis=1)
    expected = points @ matrix[:, :2].T + matrix[:, 2]
    if not np.allclose(expected, mapped, rtol=0.0, atol=1e-3):
        names = ", ".join(type(t).__name__ for t in transforms.transforms)
        raise UserError(
            f"The weak view's augmentations ({names}) are not affine, so boxes could not be mapped back: use affine ones."
        )
    return matrix


def read_image(record: Mapping[str, Any], image_format: str) -> np.ndarray:
    """uint8 (H, W, 3) of `record["file_name"]`, checked against the record's size if it has one.

    Raises:
        UnreadableImage: the file is missing, damaged or of another size.
    """
    file_name = record["file_name"]
    try:
        image = read_pixels(file_name, image_format)
        if image.size == 0:
            raise ValueError("it has no pixels")
        # Detectron2 checks this too, but with a message that is hard to understand.
        expected, found = (record.get("width"), record.get("height")), image.shape[1::-1]
        if None not in expected and tuple(expected) != tuple(found):
            raise ValueError(
                f"it is {found[0]} x {found[1]} pixels, its annotation says {expected[0]} x {expected[1]} (width x height)"
            )
    # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error and more for damaged
    # files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(file_name, reason) from None
    return image


def _to_tensor(image: np.ndarray) -> Tensor:
    # A flip leaves negative strides, so a copy is needed, even if NumPy calls the array contiguous.
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


class TwoViewMapper:
    """Reads an image, makes the weak and the strong view, and lets methods change the sample.

    Args:
        augmentations: Detectron2's augmentations, for the geometry of both views.
        image_format: "BGR" or "RGB", the model's `INPUT.FORMAT`.
        strong: None: the strong view equals the weak one.
        strong_labeled: False: the strong view of labelled images always equals the weak one.
        seed: the seed of all randomness, together with the reference's stream and position.
        view_transforms: by method name, in order.
        snapshots: the reader of the methods' snapshots.
        masks: whether records have masks, which the samples get too.
        tight_boxes: whether boxes are those around the masks in the view, which a crop makes
            smaller.
    """

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        *,
        image_format: str,
        strong: Optional[StrongAugmentation],
        seed: int,
        strong_labeled: bool = True,
        view_transforms: Optional[Mapping[str, ViewTransform]] = None,
        snapshots: Optional[SnapshotReader] = None,
        masks: bool = False,
        tight_boxes: bool = False,
    ) -> None:
        if image_format not in ("BGR", "RGB"):
            raise UserError(f"INPUT.FORMAT {image_format} is not supported: use BGR or RGB.")
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format, self.strong, self.seed = image_format, strong, seed
        self.strong_labeled = strong_labeled
        self.view_transforms = dict(view_transforms or {})
        self.snapshots = snapshots
        self.masks, self.tight_boxes = masks, tight_boxes

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        view_transforms: Optional[Mapping[str, ViewTransform]] = None,
        *,
        seed: int,
        snapshots: Optional[SnapshotReader] = None,
    ) -> "TwoViewMapper":
        """Uses the geometry of Detectron2's training: crop (if on), resize, flip. With masks, boxes
        of cropped images are those around the masks, as in Detectron2.
        """
        augmentations: List[T.Augmentation] = detection_utils.build_augmentation(cfg, is_train=True)
        if cfg.INPUT.CROP.ENABLED:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return cls(
            augmentations,
            image_format=cfg.INPUT.FORMAT,
            strong=StrongAugmentation.from_config(cfg),
            strong_labeled=cfg.SSOD.STRONG_AUGMENTATION.LABELED,
            seed=seed,
            view_transforms=view_transforms,
            snapshots=snapshots,
            masks=cfg.MODEL.MASK_ON,
            tight_boxes=cfg.MODEL.MASK_ON and cfg.INPUT.CROP.ENABLED,
        )

    @classmethod
    def for_labelling(cls, cfg: CfgNode) -> "TwoViewMapper":
        """Views for a teacher that labels outside of a training step.

        Each image is resized as for testing, without the random part of the weak view. The strong
        view equals the weak one.
        """
        size, most = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        resize = [T.ResizeShortestEdge(size, most)] if size else []
        masks = cfg.MODEL.MASK_ON
        return cls(resize, image_format=cfg.INPUT.FORMAT, strong=None, seed=0, masks=masks)

    def __call__(self, record: Mapping[str, Any], ref: SampleRef) -> Sample:
        """Maps one image.

        Args:
            record: a Detectron2 dataset dict, which is not changed. Annotations are read on the
                labelled stream only, "stored" (see `attach_stored_labels`) on the unlabelled one.
            ref: the sample to make. Its index must be that of `record`.

        Raises:
            UnreadableImage: the file cannot be used. The caller chooses another image.
        """
        image = read_image(record, self.image_format)
        size = (image.shape[0], image.shape[1])
        with seeded_globals(sample_rng(self.seed, ref, "geometry")):
            moved = T.AugInput(image)
            transforms = self.augmentations(moved)
        weak = _to_tensor(moved.image)
        sample = Sample(
            ref=ref,
            file_name=record["file_name"],
            image_id=record.get("image_id"),
            weak=weak,
            strong=self._strong_view(moved.image, ref),
            geometry=Geometry(affine_matrix(transforms, *size), size),
        )
        view_size = (int(weak.shape[1]), int(weak.shape[2]))
        if self.masks:
            _check_mask_sizes(record, ref.stream, size)
        if ref.stream == "labeled":
            sample.instances = labeled_instances(
                record["annotations"],
                transforms,
                view_size,
                masks=self.masks,
                tight=self.tight_boxes,
            )
        elif "stored" in record:
            sample.stored = stored_instances(
                record["stored"], transforms, view_size, masks=self.masks
            )
        ids = dict(ref.snapshots)
        for name, transform in self.view_transforms.items():
            snapshot = None
            if self.snapshots is not None and name in ids:
                snapshot = self.snapshots.open(name, ids[name])
            sample = transform(sample, sample_rng(self.seed, ref, name), snapshot)
        return sample

    def _strong_view(self, image: np.ndarray, ref: SampleRef) -> Tensor:
        if self.strong is None or (ref.stream == "labeled" and not self.strong_labeled):
            return _to_tensor(image).clone()
        swap = self.image_format == "RGB"
        bgr = image[:, :, ::-1] if swap else image
        strong = self.strong(bgr, sample_rng(self.seed, ref, "strong"))
        return _to_tensor(strong[:, :, ::-1] if swap else strong)


def labeled_instances(
    annotations: Sequence[Dict[str, Any]],
    transforms: T.TransformList,
    image_size: tuple[int, int],
    *,
    masks: bool = False,
    tight: bool = False,
) -> Instances:
    """`gt_boxes` and `gt_classes` (M,) in the view, without crowds and without boxes that have no
    area in the view.

    Args:
        masks: whether annotations have masks (`Rle`), which become `gt_masks`. Objects without a
            pixel in the view are left out. tight: whether boxes are then those around the masks.
    """
    kept = [a for a in annotations if not a.get("iscrowd", 0)]
    moved = [
        detection_utils.transform_instance_annotations(
            {key: a[key] for key in ("bbox", "bbox_mode", "category_id")}, transforms, image_size
        )
        for a in kept
    ]
    instances = detection_utils.annotations_to_instances(moved, image_size)
    if masks:
        moved_masks = [_moved_mask(a["segmentation"], transforms) for a in kept]
        instances.gt_masks = bit_masks(moved_masks, image_size)
        if tight:
            instances.gt_boxes = Boxes(tight_boxes(instances.gt_masks.tensor))
    return detection_utils.filter_empty_instances(instances)


def _check_mask_sizes(record: Mapping[str, Any], stream: str, size: tuple[int, int]) -> None:
    """Raises `UnreadableImage` if a mask does not have the size of the image file.

    Readers check this too, unless a file does not give the sizes of its images.
    """
    if stream == "labeled":
        rles = [a["segmentation"] for a in record["annotations"]]
    else:
        rles = record.get("stored", {}).get("masks", [])
    for rle in rles:
        if tuple(rle["size"]) != size:
            (height, width), name = rle["size"], record["file_name"]
            found = f"it is {size[1]} x {size[0]} pixels, its masks are {width} x {height} (width x height)"
            raise UnreadableImage(name, found)


def _moved_mask(rle: Rle, transforms: T.TransformList) -> np.ndarray:
    """The mask in the view, uint8."""
    return transforms.apply_segmentation(decode_mask(rle).astype(np.uint8))


def stored_instances(
    stored: Mapping[str, Any],
    transforms: T.TransformList,
    image_size: tuple[int, int],
    *,
    masks: bool = False,
) -> Instances:
    """Stored labels as predictions in the view. Boxes without area in the view are dropped. With
    `masks`, objects without a pixel in the view are dropped too.
    """
    height, width = image_size
    boxes = torch.zeros(0, 4)
    if len(stored["boxes"]):
        moved = transforms.apply_box(stored["boxes"].astype(np.float64))
        limits = np.array([width, height, width, height], dtype=np.float64)
        boxes = torch.from_numpy(np.clip(moved, 0.0, limits)).float()
    found = Instances(image_size)
    found.pred_boxes = Boxes(boxes)
    found.scores = torch.from_numpy(stored["scores"].copy())
    found.pred_classes = torch.from_numpy(stored["classes"].copy())
    if not masks:
        return found[found.pred_boxes.nonempty()]
    moved_masks = [_moved_mask(rle, transforms) for rle in stored["masks"]]
    found.pred_masks = bit_masks(moved_masks, image_size).tensor
    return found[found.pred_boxes.nonempty() & found.pred_masks.flatten(1).any(dim=1)]
