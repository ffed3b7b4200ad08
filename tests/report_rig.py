"""A run's folder with everything that the report reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import cv2
import numpy as np
import yaml

SUMMARY: Dict[str, Any] = {"precision": 0.5, "recall": 0.25, "mean_iou": 0.8, "kl": 0.125}


def write_run(root: Path, squares: Path, name: str, methods: list[str]) -> str:
    """A run folder with everything in it."""
    folder = root / name
    (folder / "pseudo_quality").mkdir(parents=True)
    declared = {
        "FORMAT": "coco",
        "ANNOTATIONS": str(squares / "test.json"),
        "IMAGES": str(squares / "test"),
    }
    config = {
        "SOLVER": {"MAX_ITER": 40},
        "DATASETS": {"TRAIN": ["few"], "VAL": [], "TEST": ["page_test"], "UNLABELED": ["many"]},
        "SSOD": {"METHODS": methods, "BURN_IN_STEPS": 10, "DATASETS": {"page_test": declared}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {
            "iteration": step,
            "total_loss": 2.0,
            "loss_cls": 1.0,
            "loss_cls_unlabeled": 0.5,
            "pseudo/boxes_per_image": 1.5,
            "pseudo/candidates_per_image": 4.0,
            "teacher/bbox/AP": 10.0 + step,
            "student/bbox/AP": 9.0,
            "teacher/bbox/AP-red": 3.0,
        }
        for step in (19, 39)
    ]
    (folder / "metrics.json").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    row = {"precision": 0.5, "recall": 0.25, "mean_iou": 0.8, "count": 4, "truth": 8}
    measured = {**SUMMARY, "per_class": {"red": row, "green": {**row, "precision": float("nan")}}}
    picture = folder / "image.png"
    cv2.imwrite(str(picture), np.full((40, 60, 3), 200, np.uint8))
    image = {
        "file_name": str(picture),
        "boxes": [[5, 5, 20, 20]],
        "classes": [0],
        "scores": [0.9],
        "truth_boxes": [[5, 5, 21, 21], [30, 5, 50, 30]],
        "truth_classes": [0, 1],
    }
    record = {
        "step": 40,
        "classes": ["red", "green"],
        "sampled_images": 2,
        "selected": measured,
        "candidates": measured,
        "images": [image],
    }
    if methods:
        (folder / "pseudo_quality" / "step_40.json").write_text(json.dumps(record))
    found = folder / "inference" / "teacher" / "page_test"
    found.mkdir(parents=True)
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "score": score}
        for score in (0.9, 0.4)
    ]
    (found / "coco_instances_results.json").write_text(json.dumps(rows))
    (folder / "log.txt").write_text(
        "[11/21 07:30:34] ssod.engine.hooks WARNING: the teacher sees <almost> nothing\n"
        "[11/21 07:30:35] ssod.engine.loop WARNING: Cannot use bad.png (broken); another image takes its place. 1 such\n"
    )
    return str(folder)
