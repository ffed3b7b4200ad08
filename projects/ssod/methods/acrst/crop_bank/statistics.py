"""The CropBank's metrics: foreground shares (Fig. 5a), and the bank's classes (Fig. 5b)."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ssod.detectors.outputs import Outputs
from ssod.detectors.rcnn.outputs import ViewOutputs
from ssod.evaluation.pseudo_label_quality import class_divergence
from ssod.structures import Sample, SSODBatch


def put_foreground_share(outputs: Outputs, batch: SSODBatch, num_classes: int) -> None:
    """Logs Fig. 5a: the share of RoIs that are foreground, and the share whose object was there
    before pasting.

    A detector without RoIs logs nothing. Both streams are counted, even if crops are pasted into
    only one, because the labelled stream's share is the figure's ground truth.
    """
    streams = {
        "labeled": (outputs.labeled, batch.labeled),
        "unlabeled": (outputs.unlabeled, batch.unlabeled),
    }
    storage = get_event_storage()
    for name, (found, samples) in streams.items():
        if not isinstance(found, ViewOutputs) or not samples:
            continue
        total, foreground, own = _count_rois(found, samples, num_classes)
        prefix = "crop_bank/foreground_share"
        storage.put_scalar(f"{prefix}/{name}", foreground / max(1, total))
        storage.put_scalar(f"{prefix}_without_pasted/{name}", own / max(1, total))


def put_bank_statistics(
    class_names: Sequence[str],
    *,
    recall: Optional[Tensor],
    probabilities: Tensor,
    sizes: np.ndarray,
    visited: int,
    truth_counts: Tensor,
    pseudo_counts: np.ndarray,
) -> None:
    """Logs the pseudo recall, sampling probability and bank size of each class, and the divergence
    of the class distributions.

    Args:
        recall: (K,), None before the first image is visited. probabilities, sizes: (K,).
        visited: number of unlabelled images whose labels the bank knows.
        truth_counts, pseudo_counts: (K,) objects of the labelled and of the visited images.
    """
    storage = get_event_storage()
    columns = {"mu": probabilities.tolist(), "size": sizes.tolist()}
    if recall is not None:
        columns["pseudo_recall"] = recall.tolist()
    for what, values in columns.items():
        for name, value in zip(class_names, values):
            storage.put_scalar(f"crop_bank/{what}/{name}", value, smoothing_hint=False)
    storage.put_scalar("crop_bank/images_visited", visited)
    # The pseudo-label quality metric is KL(truth || labels). Fig. 5b plots the other direction.
    divergence = class_divergence(truth_counts, torch.from_numpy(pseudo_counts))
    if np.isfinite(divergence):
        storage.put_scalar("crop_bank/kl_pseudo_truth", divergence, smoothing_hint=False)


def _count_rois(
    found: ViewOutputs, samples: List[Sample], num_classes: int
) -> Tuple[int, int, int]:
    """Counts the RoIs of the strong views, the foreground RoIs, and the foreground RoIs that match
    no pasted box.
    """
    total, counts = 0, []
    for roi, sample in zip(found.rois, samples):
        total += len(roi)
        foreground = roi.gt_classes < num_classes
        own = foreground
        pasted = sample.extras.get("CropBank")
        if pasted is not None:
            boxes = roi.gt_boxes.tensor
            same = (boxes[:, None] == pasted.boxes.to(boxes)[None]).all(dim=2).any(dim=1)
            own = foreground & ~same
        counts.append(torch.stack([foreground.sum(), own.sum()]))
    both = torch.stack(counts).sum(dim=0).tolist()
    return total, both[0], both[1]
