"""Scores a folder in shards. Each shard is one file, so that a killed run can continue."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, List

import numpy as np
import torch
from detectron2.utils import comm

from ssod.purification.classifier import PUClassifier
from ssod.purification.images import ImageReader, Request, load_batches
from ssod.utils.atomic import write_atomically
from ssod.utils.progress import progress
from ssod.utils.share import Share

SHARD = 2048


@dataclass
class Scores:
    """The scores and sizes of all wild images, by index.

    Attributes:
        values: float32 (n,), NaN for files that could not be read. sizes: int32 (n, 2) height and
            width, 0 for these.
        skipped: file -> reason.
    """

    values: np.ndarray
    sizes: np.ndarray
    skipped: Dict[str, str]


def _shard_path(output: str, shard: int) -> str:
    return os.path.join(output, "scores", f"{shard:06d}.json")


@torch.no_grad()
def score_images(
    classifier: PUClassifier,
    wild: ImageReader,
    output: str,
    batch_size: int,
    workers: int,
    share: Share = Share(),
) -> None:
    """Writes the shards of `share` that do not exist yet. Each rank writes its own."""
    classifier.eval()
    device = classifier.linear.weight.device
    total = len(wild.paths)
    shards = range(-(-total // SHARD))
    missing = [s for s in share.of(shards) if not os.path.exists(_shard_path(output, s))]
    mine = missing[comm.get_rank() :: comm.get_world_size()]
    bar = progress(title="scoring", total=min(len(mine) * SHARD, total))
    for shard in mine:
        first, last = shard * SHARD, min((shard + 1) * SHARD, total)
        requests = [
            Request(tuple(range(start, min(start + batch_size, last))))
            for start in range(first, last, batch_size)
        ]
        rows: List[Any] = [None] * (last - first)
        skipped: Dict[str, str] = {}
        for batch in load_batches(wild, requests, workers):
            bar.update(len(batch.indices) + len(batch.skipped))
            skipped.update({wild.paths[index]: reason for index, reason in batch.skipped})
            if not batch.indices:
                continue
            logits = classifier(batch.images.to(device, non_blocking=True)).float().tolist()
            for index, logit, (height, width) in zip(batch.indices, logits, batch.sizes):
                rows[index - first] = [logit, height, width]
        text = json.dumps({"rows": rows, "skipped": skipped})
        write_atomically(_shard_path(output, shard), lambda file: file.write(text.encode()))
    bar.close()
    comm.synchronize()


def read_scores(output: str, total: int) -> Scores:
    """All shards together. They take 12 bytes per image."""
    values = np.full(total, np.nan, dtype=np.float32)
    sizes = np.zeros((total, 2), dtype=np.int32)
    skipped: Dict[str, str] = {}
    for shard in range(-(-total // SHARD)):
        with open(_shard_path(output, shard), encoding="utf-8") as file:
            content = json.load(file)
        skipped.update(content["skipped"])
        for offset, row in enumerate(content["rows"]):
            if row is not None:
                values[shard * SHARD + offset] = row[0]
                sizes[shard * SHARD + offset] = row[1:]
    return Scores(values, sizes, skipped)
