"""Easy and difficult images: does an image's set of pseudo-labels teach more than it misleads
(Section 3.1)?

Needs the truth, so it is for analysis alone.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import torch
from torch import Tensor

from ssod.evaluation.pseudo_label_quality import LabelCounts, sum_counts


def easy_images(counts: Sequence[LabelCounts]) -> Tensor:
    """An image is easy if the recall of its labels exceeds 1 - precision.

    Nothing to find counts as recall 1, no label as precision 1: an image with objects and no label
    is difficult, and so is one without objects that has labels.

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
    """[precision, recall] of the labels of all, easy and difficult images; NaN where there is
    nothing to measure.
    """
    groups = {"all": torch.ones_like(easy), "easy": easy, "difficult": ~easy}
    result = {}
    for name, mask in groups.items():
        own = [count.total() for count, inside in zip(counts, mask.tolist()) if inside]
        total = sum_counts(own, 1)
        result[name] = [float(total.precision), float(total.recall)]
    return result
