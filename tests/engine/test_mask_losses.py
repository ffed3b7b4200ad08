"""A Mask R-CNN trains on labelled images and on stored labels with masks, by its own losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from runs import train
from ssod.data.masks import as_json, encode_mask
from tiny import SIZE, tiny_cfg, with_squares, write_coco


def write_masks(root: Path, name: str) -> Path:
    """Adds to each box of a set a mask, its inner part, and a score."""
    path = root / f"{name}.json"
    content: Dict[str, Any] = json.loads(path.read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[y : y + h - 2, x : x + w] = True
        annotation.update(segmentation=as_json(encode_mask(mask)), score=0.9)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("stored", [False, True])
def test_mask_losses_arrive(tmp_path: Path, stored: bool) -> None:
    for seed, name in enumerate(("labeled", "unlabeled", "test")):
        write_coco(tmp_path, name, 3, seed)
    write_masks(tmp_path, "labeled")
    methods = ("ScoreThreshold", "PseudoBoxRegression") if stored else ()
    cfg = with_squares(tiny_cfg(), tmp_path, tmp_path / "out", methods)
    cfg.merge_from_list(["MODEL.MASK_ON", True, "SOLVER.MAX_ITER", 2, "SSOD.BURN_IN_STEPS", 0])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8])
    if stored:
        cfg.SSOD.PSEUDO_LABELS = str(write_masks(tmp_path, "unlabeled"))
    storage = train(cfg).storage.histories()
    assert 0 < storage["loss_mask"].latest() < 10
    assert ("loss_mask_unlabeled" in storage) == stored
