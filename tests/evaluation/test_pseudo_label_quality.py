"""Precision, recall, IoU and divergence against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ssod.evaluation.pseudo_label_quality import (
    class_divergence,
    count_labels,
    match_labels,
    sum_counts,
    summarise,
)


def boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_match_is_greedy_by_score_and_one_to_one() -> None:
    truth = boxes([0, 0, 10, 10], [100, 0, 110, 10])
    # Rows 0 and 1 both overlap the first true box: IoU 0.8 and 1; row 0 scores higher and takes it.
    labels = boxes([0, 0, 10, 8], [0, 0, 10, 10], [100, 0, 110, 5])
    iou = match_labels(
        labels, torch.zeros(3).long(), torch.tensor([0.9, 0.8, 0.7]), truth, torch.zeros(2).long()
    )
    assert iou.tolist() == pytest.approx([0.8, 0.0, 0.5])  # exactly at the threshold counts


def test_second_choice_is_taken_where_the_first_is_gone() -> None:
    truth = boxes([0, 0, 10, 10], [0, 2, 10, 12])
    labels = boxes([0, 0, 10, 10], [0, 0, 10, 10])
    iou = match_labels(
        labels, torch.zeros(2).long(), torch.tensor([0.5, 0.9]), truth, torch.zeros(2).long()
    )
    assert iou.tolist() == pytest.approx([80 / 120, 1.0])


def test_classes_do_not_mix() -> None:
    box = boxes([0, 0, 10, 10])
    one = torch.ones(1)
    assert match_labels(box, torch.tensor([1]), one, box, torch.tensor([0])).tolist() == [0.0]


def test_counts_precision_recall_iou() -> None:
    # Class 0: 2 labels, 1 right with IoU 0.8, of 2 true boxes. Class 1: 1 true box without label.
    # Class 2: 1 wrong label.
    first = count_labels(
        boxes([0, 0, 10, 8], [50, 50, 60, 60]),
        torch.tensor([0, 0]),
        torch.tensor([0.9, 0.8]),
        boxes([0, 0, 10, 10], [20, 20, 30, 30]),
        torch.tensor([0, 1]),
        3,
    )
    second = count_labels(
        boxes([0, 0, 5, 5]),
        torch.tensor([2]),
        torch.tensor([0.9]),
        boxes([0, 0, 5, 5]),
        torch.tensor([0]),
        3,
    )
    summary = summarise(sum_counts([first, second], 3), ["a", "b", "c"])
    assert summary["precision"] == pytest.approx(1 / 3)
    assert summary["recall"] == pytest.approx(1 / 3)
    assert summary["mean_iou"] == pytest.approx(0.8)
    a, b, c = (summary["per_class"][name] for name in "abc")
    assert (a["precision"], a["recall"], a["count"], a["truth"]) == (0.5, 0.5, 2, 2)
    assert math.isnan(b["precision"]) and b["recall"] == 0.0 and b["truth"] == 1
    assert c["precision"] == 0.0 and math.isnan(c["recall"]) and math.isnan(c["mean_iou"])


@pytest.mark.parametrize("labels, truth", [(0, 0), (0, 2), (2, 0)])
def test_images_without_labels_or_truth(labels: int, truth: int) -> None:
    def some(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[0.0, 0, 4, 4]]).repeat(count, 1), torch.zeros(count).long()

    box, kind = some(labels)
    counts = count_labels(box, kind, torch.ones(labels), *some(truth), 2)
    assert counts.labels.tolist() == [labels, 0] and counts.truth.tolist() == [truth, 0]
    assert counts.matched.sum() == 0
    assert math.isnan(summarise(counts, ["a", "b"])["kl"])


def test_no_image_at_all() -> None:
    assert sum_counts([], 2).labels.tolist() == [0, 0]


def test_divergence() -> None:
    # After adding 1 to each count: truth (3, 1) -> (4, 2) / 6, labels (1, 3) -> (2, 4) / 6.
    labels, truth = torch.tensor([1, 3]), torch.tensor([3, 1])
    expected = 4 / 6 * math.log(2) + 2 / 6 * math.log(0.5)
    assert class_divergence(labels, truth) == pytest.approx(expected)
    assert class_divergence(truth, truth) == pytest.approx(0.0)
    # The direction: a class that is missing costs more than one that is invented.
    few, many = torch.tensor([100, 0]), torch.tensor([50, 50])
    assert class_divergence(few, many) > class_divergence(many, few) > 0
    assert class_divergence(labels, truth, smoothing=0.0) == pytest.approx(0.5 * math.log(3))
