"""Pseudo-box IoU by size, worked out by hand, and the report's section."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ssod.evaluation.pseudo_label_sizes import iou_by_size, summarise_sizes
from ssod.methods.lsm import PIM
from ssod.plotting.run_data import RunData
from ssod.report.sections import ap_section


def test_iou_by_size_and_score() -> None:
    truth = torch.tensor([[0.0, 0, 100, 100], [200, 0, 220, 20]])
    boxes = torch.tensor(
        [
            [0.0, 0, 100, 80],  # medium, IoU 0.8, score 0.5: in [0.5, 0.7)
            [0, 0, 100, 100],  # large, IoU 1, 0.9
            [0, 0, 96, 96],  # large from 96 x 96 on, another class: 0
            [200, 0, 220, 10],  # small, IoU 0.5, 0.7: in [0.7, 1]
            [0, 0, 20, 20],  # small, IoU 0.04
        ]
    )
    classes = torch.tensor([0, 0, 1, 1, 0])
    scores = torch.tensor([0.5, 0.9, 0.9, 0.7, 0.7])
    rows = summarise_sizes([iou_by_size(boxes, classes, scores, truth, torch.tensor([0, 1]))] * 2)
    found = {(row["size"], row["low"]): (row["count"], row["mean_iou"]) for row in rows}
    assert len(rows) == 9 and sum(row["count"] for row in rows) == 10
    assert found["medium", 0.5] == (2, pytest.approx(0.8))
    assert found["large", 0.7] == (4, pytest.approx(0.5))
    assert found["small", 0.7] == (4, pytest.approx(0.27))
    assert found["small", 0.0][0] == 0 and math.isnan(found["small", 0.0][1])


def test_iou_without_labels_or_truth() -> None:
    none, box = torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])
    no_class, one = torch.zeros(0).long(), torch.zeros(1).long()
    empty = iou_by_size(none, no_class, torch.zeros(0), box, one)
    assert empty.labels.sum() == 0
    alone = iou_by_size(box, one, torch.ones(1), none, no_class)
    assert alone.labels.sum() == 1 and alone.iou.sum() == 0


def test_report_section(tmp_path: Path) -> None:
    run = RunData(str(tmp_path), "run")
    assert PIM.report_section(run) is None
    run.metrics = {10: {"pim/mined_boxes": 3.0}, 11: {"pim/mined_boxes": 5.0}}
    section = PIM.report_section(run)
    assert section is not None and "Boxes mined between alpha and t" in section.html
    assert "No truth" in section.html
    boxes = torch.tensor([[0.0, 0, 5, 5]])
    counts = iou_by_size(
        boxes, torch.zeros(1).long(), torch.tensor([0.6]), boxes, torch.zeros(1).long()
    )
    run.quality = {20: {"step": 20}, 40: {"step": 40, "iou_by_size": summarise_sizes([counts])}}
    section = PIM.report_section(run)
    assert section is not None and "at step 40" in section.html and "1.00" in section.html


def test_average_recall_over_training_is_drawn(tmp_path: Path) -> None:
    """Fig. 4, for any run."""
    run = RunData(str(tmp_path), "run", metrics={9: {"teacher/bbox/AR": 30.0}})
    assert "<figcaption>AR<" in ap_section([run]).html
