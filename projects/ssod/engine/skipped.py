"""Lists the images and boxes that a run could not use, in OUTPUT_DIR: `skipped_images.json` and
`skipped_boxes.json`.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from typing import Any, Dict, List, Mapping

from detectron2.config import CfgNode
from detectron2.utils import comm

from ssod.data.boxes import skipped_boxes
from ssod.data.readings import skipped_of
from ssod.evaluation.build import unreadable_images
from ssod.utils.atomic import write_atomically

logger = logging.getLogger(__name__)
IMAGES, BOXES = "skipped_images.json", "skipped_boxes.json"


def write_skipped(cfg: CfgNode, unread: Mapping[str, str] = {}, *, report: bool = False) -> None:
    """Writes both lists, or removes the file of an empty one. Called on all ranks.

    `skipped_images.json` is {file: reason}; `skipped_boxes.json` is {annotation file: [{"label",
    "reason", "image"}]}.

    Args:
        unread: files that this rank's training could not read, with the reason.
        report: whether to log their number too.
    """
    images: Dict[str, str] = {}
    boxes: Dict[str, List[Dict[str, Any]]] = {}
    for key in ("TRAIN", "VAL", "TEST"):
        for name in cfg.DATASETS[key]:
            source, found, missing = skipped_of(name)
            images.update(dict.fromkeys(missing, "it does not exist"))
            images.update(unreadable_images(name))
            boxes[source] = [asdict(box) for box in found]
    if cfg.SSOD.PSEUDO_LABELS:
        stored = skipped_boxes(cfg.SSOD.PSEUDO_LABELS)
        boxes[cfg.SSOD.PSEUDO_LABELS] = [asdict(box) for box in stored]
    for found_by_rank in comm.all_gather(dict(unread)):
        images.update(found_by_rank)
    if not comm.is_main_process():
        return
    boxes = {source: rows for source, rows in boxes.items() if rows}
    counts = {IMAGES: len(images), BOXES: sum(map(len, boxes.values()))}
    for name, content in ((IMAGES, images), (BOXES, boxes)):
        path = os.path.join(cfg.OUTPUT_DIR, name)
        if not content:
            if os.path.exists(path):
                os.remove(path)
            continue
        text = json.dumps(content, indent=1).encode()
        write_atomically(path, lambda file: file.write(text))
        if report:
            one, more = ("image", "images") if name == IMAGES else ("box", "boxes")
            what = one if counts[name] == 1 else more
            logger.warning(f"{counts[name]} {what} could not be used; {path} lists them.")
