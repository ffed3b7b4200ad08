"""The processor time of an image's two views, which says how many workers a GPU needs."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from ssod.data.mapper import TwoViewMapper
from ssod.structures import SampleRef

_HEIGHT, _WIDTH, _BOXES = 480, 640, 7
_REPEATS = 15


def view_seconds(cfg: CfgNode, folder: str) -> Dict[str, float]:
    """Median processor seconds of reading an image of 640 x 480 pixels and making its weak and
    strong view, by stream. Methods' own changes of the views are left out.

    Args:
        folder: where the drawn image is written.
    """
    record = {"file_name": _draw(os.path.join(folder, "views.jpg")), "image_id": 1}
    boxes = [[40.0 * n, 30.0 * n, 40.0 * n + 90, 30.0 * n + 120] for n in range(_BOXES)]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        for box in boxes
    ]
    mapper = TwoViewMapper.from_config(cfg, seed=0)
    rows: Dict[str, Dict[str, Any]] = {
        "labeled": {**record, "annotations": annotations},
        "unlabeled": record,
    }
    found = {}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker
    for stream, row in rows.items():
        times: List[float] = []
        for position in range(_REPEATS):
            start = time.process_time()
            mapper(row, SampleRef(stream, position, 0))
            times.append(time.process_time() - start)
        found[stream] = float(np.median(times))
    cv2.setNumThreads(threads)
    return found


def _draw(path: str) -> str:
    """A JPEG file with the detail of a photograph: colours that blend, and noise."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (12, 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    pixels = smooth + rng.normal(0, 8, smooth.shape)
    cv2.imwrite(path, np.clip(pixels, 0, 255).astype(np.uint8))
    return path
