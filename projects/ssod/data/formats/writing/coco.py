"""COCO's JSON. Scores are stored as in COCO's result files."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List

from ssod.data.formats.writing.labels import IMAGES, LabelSet, link_images, write_text


def coco_content(labels: LabelSet) -> Dict[str, Any]:
    """ "images", "annotations" and "categories"; ids count from 1."""
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for number, image in enumerate(labels.images, 1):
        height, width = image.size
        images.append({"id": number, "file_name": image.path, "height": height, "width": width})
        for box in image.boxes:
            x0, y0, x1, y1 = (round(value, 3) for value in box.corners)
            w, h = round(x1 - x0, 3), round(y1 - y0, 3)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": box.label + 1,
                "bbox": [x0, y0, w, h],
                "area": round(w * h, 3),
                "iscrowd": 0,
            }
            if box.score is not None:
                annotation["score"] = round(box.score, 6)
            annotations.append(annotation)
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(labels.classes)]
    info = {"description": labels.source} if labels.source else {}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def write_coco(labels: LabelSet, output: str) -> None:
    """Writes OUTPUT/annotations.json and OUTPUT/images."""
    link_images(labels, os.path.join(output, IMAGES))
    write_text(os.path.join(output, "annotations.json"), json.dumps(coco_content(labels)))
