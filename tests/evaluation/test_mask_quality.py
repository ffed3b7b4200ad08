"""Pseudo-masks against the truth, and their pictures: hand-made numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from ssod.data.masks import as_json, encode_mask
from ssod.data.truth import HiddenTruth
from ssod.evaluation.pseudo_label_quality import mask_ious
from ssod.report.gallery import Boxes, picture
from ssod.structures import Geometry
from ssod.utils.draw import PALETTE, draw_boxes

SIDE = 12


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_ious_of_matched_pairs_count_pixels() -> None:
    found = [encode_mask(square(0, 0, 4, 4)), encode_mask(square(6, 6, 10, 10))]
    truth = [encode_mask(square(6, 6, 10, 10)), encode_mask(square(0, 0, 4, 2)), None]
    assert mask_ious(torch.tensor([1, 0]), found, truth) == [0.5, 1.0]
    assert mask_ious(torch.tensor([-1, 2]), found, truth) == []


@pytest.mark.parametrize(
    "matrix", [[[2.0, 0, 0], [0, 2, 0]], [[-2.0, 0, 24], [0, 2, 0]], [[0, 2.0, 0], [2, 0, 0]]]
)
def test_masks_return_to_the_file(matrix: Any) -> None:
    mask = square(1, 2, 5, 9)
    view = np.kron(mask, np.ones((2, 2), dtype=bool))
    view = view[:, ::-1] if matrix[0][0] < 0 else view.T if matrix[0][0] == 0 else view
    geometry = Geometry(np.array(matrix), (SIDE, SIDE))
    back = geometry.masks_to_original(torch.from_numpy(view[None].copy()))
    assert (back[0].numpy() == mask).all()
    # A view that shows only a part of the file knows nothing of the rest.
    part = torch.from_numpy(view[None, :6].copy())
    seen = geometry.masks_to_original(part)[0].numpy()
    assert seen.any() and not (seen & ~mask).any() and seen.sum() < mask.sum()


def test_truth_knows_masks_only_where_they_are_asked_for(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "iscrowd": 1},
        {"image_id": 1, "category_id": 1, "bbox": [6, 6, 4, 4]},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]},
    ]
    annotations[2]["segmentation"] = as_json(encode_mask(square(0, 0, 4, 4)))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    name = f"truth_{tmp_path.name}"
    MetadataCatalog.get(name).set(truth_file=str(tmp_path / "truth.json"), image_root=str(tmp_path))
    record = {"dataset_name": name, "file_name": str(tmp_path / "a.png")}
    masks = HiddenTruth([name], ["cell"], masks=True).masks(record)
    assert masks is not None and masks[0] is None and masks[1] is not None and len(masks) == 2
    assert HiddenTruth([name], ["cell"]).masks(record) is None


def test_pictures_show_masks(tmp_path: Path) -> None:
    image = torch.full((3, SIDE, SIDE), 100, dtype=torch.uint8)
    boxes, classes = torch.tensor([[2.0, 2, 9, 9]]), torch.tensor([0])
    masks = torch.from_numpy(square(3, 3, 8, 8)[None])
    drawn = draw_boxes(image, boxes, classes, ["cell"], scale=4, masks=masks)
    tint = np.rint(0.6 * 100 + 0.4 * np.array(PALETTE[0]))
    assert (drawn[30, 30] == tint).all()  # inside
    assert (drawn[12, 30] == PALETTE[0]).all()  # the outline
    assert (drawn[40, 40] == 100).all()  # beside the box
    assert (draw_boxes(image, boxes, classes, ["cell"], scale=4)[30, 30] == 100).all()
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.full((SIDE, SIDE, 3), 100, np.uint8))
    rle = as_json(encode_mask(square(3, 3, 8, 8)))
    plain = picture(path, Boxes([[2, 2, 9, 9]], [0]), ["cell"])
    masked = picture(path, Boxes([[2, 2, 9, 9]], [0], masks=[rle]), ["cell"])
    assert plain and masked and plain != masked
