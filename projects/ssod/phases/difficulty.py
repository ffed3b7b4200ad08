"""Divides images into easy and difficult ones by the quality of their pseudo-labels (Section 3.1).

This needs the truth, so it is for analysis only.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import torch
from torch import Tensor

from ssod.evaluation.pseudo_label_quality import LabelCounts, sum_counts


def easy_images(counts: Sequence[LabelCounts]) -> Tensor:
    """An image is easy if the recall of its labels exceeds 1 - precision.

    An image without objects has recall 1, and one without labels has precision 1. So an image with
    objects but no label is difficult, and so is one with labels but no object.

    Args:
        counts: of N images.

    Returns:
        (N,) bool.
    """
    totals = [count.total() for count in counts]
    recall = torch.tensor([float(count.recall) for count in totals], dtype=torch.float64)
    precision = torch.tensor([float(count.precision) for count in totals], dtype=torch.float64)
    return recall.nan_to_num(1.0) > 1.0 - precision.nan_to_num(1.0)


def quality_by_difficulty(counts: Sequence[LabelCounts], easy: Tensor) -> Dict[str, List[float]]:
    """[precision, recall] of the labels of all, easy and difficult images. NaN if there is nothing
    to measure.
    """
    groups = {"all": torch.ones_like(easy), "easy": easy, "difficult": ~easy}
    result = {}
    for name, mask in groups.items():
        own = [count.total() for count, inside in zip(counts, mask.tolist()) if inside]
        total = sum_counts(own, 1)
        result[name] = [float(total.precision), float(total.recall)]
    return result
