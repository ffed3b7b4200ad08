"""A Mask R-CNN trains on labelled images and on stored labels with masks, by its own losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from region_rig import KEYS
from runs import digest, method_cfg, state_of, train
from ssod.data.masks import as_json, encode_mask
from ssod.plotting.run_data import load_runs
from ssod.report.gallery import pseudo_label_images
from ssod.report.page import build_page
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


@pytest.mark.trains
@pytest.mark.parametrize("mixer", ["CropBank", "MixUpMosaic"])
def test_masks_from_labels_to_the_report(squares: Path, tmp_path: Path, mixer: str) -> None:
    """A teacher's masks are pasted, trained on, measured, evaluated and drawn; resumed, too."""

    def config(name: str) -> Any:
        cfg = method_cfg(squares, tmp_path / name, ("PseudoBoxRegression", mixer), 4)
        cfg.merge_from_list(KEYS["Mask R-CNN"])
        cfg.SSOD.DATASETS.squares_unlabeled.TRUTH = str(squares / "unlabeled.json")
        cfg.merge_from_list(["SSOD.VIS_PERIOD", 1, "TEST.EVAL_PERIOD", 2])
        cfg.DATASETS.TEST = ("squares_test",)
        if mixer == "CropBank":
            cfg.SSOD.CROP_BANK.PASTE_ON = ("labeled", "unlabeled")
            cfg.SSOD.CROP_BANK.BANKS = ("pseudo", "labeled")
        return cfg

    whole = train(config("whole"))
    histories = whole.storage.histories()
    assert {"loss_mask", "loss_mask_unlabeled", "teacher/segm/AP"} <= set(histories)
    assert "pseudo_quality/mask_iou" in histories
    result = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert {"bbox", "segm"} == set(result["teacher_best"]["test"]["squares_test"])
    if mixer == "CropBank":
        bank = whole.core.methods["CropBank"].pseudo_bank.instances()
        assert bank.masks is not None and len(bank.masks)
        assert (tmp_path / "whole" / "crop_bank" / "0.jpg").exists()
    pictures = pseudo_label_images(load_runs([str(tmp_path / "whole")]))
    assert all(picture.truth is not None and picture.truth.masks for picture in pictures)
    page = build_page(load_runs([str(tmp_path / "whole")]))
    assert "segm/AP" in page and "Mean IoU of their masks" in page

    parts = config("parts")
    train(parts)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    assert digest(state_of(train(parts, resume=True))) == digest(state_of(whole))
