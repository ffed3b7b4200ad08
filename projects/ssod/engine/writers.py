"""Writes the event storage to a console line, metrics.json and TensorBoard."""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
from typing import List, Optional, Sequence

import torch
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage

from ssod.utils.atomic import write_atomically

logger = logging.getLogger(__name__)


class ConsoleWriter(EventWriter):
    """Logs one line with the time left, losses and pseudo-label counts."""

    def __init__(self, max_iter: int) -> None:
        self.max_iter = max_iter
        self._last: Optional[tuple[float, int]] = None

    def write(self) -> None:
        storage = get_event_storage()
        now, step = time.perf_counter(), storage.iter + 1
        if step > self.max_iter:  # Detectron2 writes once more after the last step
            return
        eta = speed = "?"
        if self._last is not None and step > self._last[1]:
            seconds = (now - self._last[0]) / (step - self._last[1])
            speed = f"{seconds:.3f}"
            eta = str(datetime.timedelta(seconds=int(seconds * (self.max_iter - step))))
        self._last = (now, step)
        latest = storage.latest()
        parts = [f"step {step}/{self.max_iter}", f"eta {eta}", f"s/step {speed}"]
        if "data_time" in latest:
            parts.append(f"data {storage.history('data_time').avg(20):.3f}")
        parts.append(f"lr {latest['lr'][0]:.2g}" if "lr" in latest else "")
        for name in sorted(latest, key=lambda n: (n != "total_loss", n)):
            if "loss" in name and name != "loss_scale" and latest[name][1] == storage.iter:
                parts.append(f"{name} {storage.history(name).median(20):.3f}")
        if latest.get("pseudo/boxes_per_image", (0, -1))[1] == storage.iter:
            kept = storage.history("pseudo/boxes_per_image").avg(20)
            seen = storage.history("pseudo/candidates_per_image").avg(20)
            parts.append(f"pseudo-boxes/image {kept:.1f} of {seen:.1f}")
        if torch.cuda.is_available():
            parts.append(f"mem {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        logger.info("  ".join(part for part in parts if part))


def drop_metrics_after(path: str, step: int) -> None:
    """Removes the lines of metrics.json past iteration `step`, which a resumed run is about to
    write again.

    A half-written last line, which a kill may leave, is removed too.
    """
    if not os.path.exists(path):
        return
    kept = []
    with open(path) as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record.get("iteration", -1) <= step:
                kept.append(line if line.endswith("\n") else line + "\n")
    write_atomically(path, lambda file: file.write("".join(kept).encode()))


def build_writers(
    output_dir: str, max_iter: int, start_iter: int, trackers: Sequence[EventWriter] = ()
) -> List[EventWriter]:
    """The three writers, and trackers. It first removes from metrics.json the lines that a resumed
    run writes again.
    """
    metrics = os.path.join(output_dir, "metrics.json")
    drop_metrics_after(metrics, start_iter - 1)
    return [
        ConsoleWriter(max_iter),
        JSONWriter(metrics),
        *trackers,  # before TensorBoard's, which removes the pictures that it has written
        TensorboardXWriter(output_dir, purge_step=start_iter),
    ]
