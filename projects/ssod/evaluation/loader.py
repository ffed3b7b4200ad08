"""Test images for evaluation: a damaged one is left out and remembered instead of ending the
run.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, detection_utils
from detectron2.data import transforms as T

from ssod.data.mapper import UnreadableImage, read_image
from ssod.data.readings import dataset_records
from ssod.utils.progress import progress

_UNREADABLE = "unreadable"
# image id -> (file name, reason)
Unreadable = Dict[Any, Tuple[str, str]]


class TestMapper:
    """Maps a record to a model's input, as Detectron2's `DatasetMapper` does for testing.

    A damaged image gives a dict without "image", with the reason under "unreadable".
    """

    __test__ = False  # pytest must not collect it

    def __init__(self, augmentations: List[T.Augmentation], image_format: str) -> None:
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "TestMapper":
        """Resized as `INPUT.MIN_SIZE_TEST` and `INPUT.MAX_SIZE_TEST` say."""
        return cls(detection_utils.build_augmentation(cfg, is_train=False), cfg.INPUT.FORMAT)

    def __call__(self, record: Mapping[str, Any]) -> Dict[str, Any]:
        row = {key: record[key] for key in ("file_name", "image_id") if key in record}
        try:
            image = read_image(record, self.image_format)
        except UnreadableImage as error:
            return {**row, _UNREADABLE: error.reason}
        row["height"], row["width"] = image.shape[:2]
        moved = T.AugInput(image)
        self.augmentations(moved)
        row["image"] = torch.as_tensor(np.ascontiguousarray(moved.image.transpose(2, 0, 1)))
        return row


class ReadableImages:
    """Another loader's batches without the images that could not be read.

    Args:
        title: of the progress bar.

    Attributes:
        unreadable: those of this rank, filled while the loader is iterated over.
    """

    def __init__(self, loader: Any, title: str = "") -> None:
        self._loader = loader
        self._title = title
        self.unreadable: Unreadable = {}

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[List[Dict[str, Any]]]:
        for batch in progress(self._loader, self._title):
            rows = []
            for row in batch:
                if isinstance(row, Mapping) and _UNREADABLE in row:
                    name, reason = row["file_name"], row[_UNREADABLE]
                    self.unreadable[row.get("image_id", name)] = (name, reason)
                else:
                    rows.append(row)
            if rows:
                yield rows


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Any:
    """Batches of one image, divided among the ranks.

    The records are those that the run has read at its start.
    """
    return build_detection_test_loader(
        dataset_records(dataset_name),
        mapper=TestMapper.from_config(cfg),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
