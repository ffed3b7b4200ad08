"""Reads images for the classifier.

Shapes: images are uint8 (n, 3, S, S) in the model's channel order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssod.data.augmentation import color_jitter
from ssod.data.mapper import UnreadableImage, read_image

MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class Request:
    """Images to read together.

    Attributes:
        indices: indices of the images. seeds: seed of each image's augmentation. Empty: no
            augmentation.
    """

    indices: Tuple[int, ...]
    seeds: Tuple[int, ...] = ()


@dataclass
class ImageBatch:
    """Attributes:
    images: (n, 3, S, S), the images that could be read. indices: their indices. sizes: (height,
    width) of their files. skipped: (index, reason).
    """

    images: Tensor
    indices: List[int]
    sizes: List[Tuple[int, int]]
    skipped: List[Tuple[int, str]]


class ImageReader(Dataset):
    """Reads the images of a `Request`.

    Every image is resized to a square, so that the classifier cannot tell the two sets apart by
    padding.

    Args:
        paths: paths of the files, by index. folder: the folder in front of each path. size: S.
        flip: whether augmented images are mirrored half of the time.
        replace: whether the next file replaces one that cannot be read (100 times at most).
            Otherwise the file is left out.
    """

    def __init__(
        self,
        paths: Sequence[str],
        folder: str,
        *,
        size: int,
        image_format: str,
        flip: bool,
        replace: bool,
    ) -> None:
        self.paths, self.folder, self.size = paths, folder, size
        self.image_format, self.flip, self.replace = image_format, flip, replace

    def __getitem__(self, request: Request) -> ImageBatch:
        batch = ImageBatch(torch.empty(0), [], [], [])
        images = []
        for place, index in enumerate(request.indices):
            for attempt in range(MAX_ATTEMPTS if self.replace else 1):
                number = (index + attempt) % len(self.paths)
                try:
                    image = self._read(number)
                except UnreadableImage as error:
                    batch.skipped.append((number, error.reason))
                    continue
                height, width = image.shape[:2]
                shrinks = min(height, width) > self.size
                how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
                image = cv2.resize(image, (self.size, self.size), interpolation=how)
                if request.seeds:
                    image = self._augment(image, np.random.default_rng(request.seeds[place]))
                images.append(image)
                batch.indices.append(number)
                batch.sizes.append((height, width))
                break
        if images:
            stacked = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
            batch.images = torch.from_numpy(stacked)
        return batch

    def _augment(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Flips and recolours an image, so that the few labelled images are not memorised."""
        image = color_jitter(image, rng)
        return image[:, ::-1] if self.flip and rng.random() < 0.5 else image

    def _read(self, index: int) -> np.ndarray:
        return read_image(
            {"file_name": os.path.join(self.folder, self.paths[index])}, self.image_format
        )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _as_is(value: Any) -> Any:
    return value


def load_batches(reader: Dataset, requests: Any, workers: int) -> DataLoader:
    """The reader's results for requests (sized and iterable), in order. `workers` processes read
    ahead.
    """
    return DataLoader(
        reader,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_start_worker,
        # Without a generator of its own, a DataLoader draws from torch's global one when it starts.
        generator=torch.Generator().manual_seed(0),
    )
