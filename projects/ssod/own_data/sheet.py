"""A contact sheet of labelled images: each class is shown, then what is odd, then others spread
over the set.
"""

from __future__ import annotations

import os
from typing import Dict, List, Set

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image

from ssod.data.formats.annotated import ImageLabels
from ssod.data.masks import decode_mask
from ssod.own_data.collection import Collection
from ssod.own_data.examine import Examination
from ssod.report.contact_sheet import Panel, contact_sheet

_PICTURES = 20


def chosen_photos(
    collection: Collection, seen: Examination, number: int = _PICTURES
) -> List[ImageLabels]:
    """One image of each class, one of each oddity, then images spread over the set; those without
    labels are left out.
    """
    labelled = [photo for photo in collection.labelled() if photo.size]
    chosen: Dict[str, ImageLabels] = {}
    shown: Set[str] = set()
    for photo in labelled:
        labels = {box.label for box in photo.boxes or ()}
        if labels - shown:
            shown |= labels
            chosen[photo.path] = photo
    for odd in seen.odd:
        chosen.setdefault(odd.photos[0].path, odd.photos[0])
    rest = [photo for photo in labelled if photo.path not in chosen]
    missing = max(0, number - len(chosen))
    for photo in rest[:: max(1, len(rest) // max(1, missing))][:missing]:
        chosen[photo.path] = photo
    return list(chosen.values())[:number]


def write_sheet(collection: Collection, seen: Examination, path: str) -> bool:
    """Writes the sheet as JPEG; False where no labelled image can be read."""
    index = {name: i for i, name in enumerate(collection.classes)}
    cells = []
    for photo in chosen_photos(collection, seen):
        try:
            image = read_image(collection.full_path(photo), format="BGR")
        except Exception:  # Pillow's decoders raise more than OSError on damaged files
            continue
        boxes = photo.boxes or []
        panel = Panel(
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            photo.path,
            torch.tensor([box.corners for box in boxes], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([index[box.label] for box in boxes], dtype=torch.int64),
            names=collection.classes,
        )
        masks = [decode_mask(box.mask) for box in boxes if box.mask]
        if masks and len(masks) == len(boxes):
            panel.masks = torch.from_numpy(np.stack(masks))
        cells.append([panel])
    if not cells:
        return False
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(contact_sheet(cells)).save(path, quality=88)
    return True
