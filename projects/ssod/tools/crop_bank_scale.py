"""Measures the CropBank at scale: start-up, refresh, sampling, and the memory of the loader's
workers.

python -m ssod.tools.crop_bank_scale [--instances N] [--images N] [--labeled N] [--classes N]
    [--workers N] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
from detectron2.structures import BoxMode

from ssod.data.snapshots import SnapshotBoard, SnapshotReader
from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.methods.acrst.crop_bank.bank import (
    Instances,
    PseudoBank,
    labeled_instances,
    pack_labels,
)
from ssod.methods.acrst.crop_bank.crops import FileNames
from ssod.methods.acrst.crop_bank.paste import draw_instance

_SIZE = (480, 640)
_BATCH = 32  # unlabelled images a step
_DRAWS = 20_000


def _timed(call: Callable[..., Any], *args: Any) -> Tuple[float, Any]:
    start = time.perf_counter()
    result = call(*args)
    return time.perf_counter() - start, result


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.uniform(0, 0.8, (count, 2))
    high = low + rng.uniform(0.02, 0.2, (count, 2))
    return np.concatenate([low, high], axis=1) * [_SIZE[1], _SIZE[0], _SIZE[1], _SIZE[0]]


def _labels(rng: np.random.Generator, image: int, count: int, classes: int) -> np.ndarray:
    return pack_labels(
        image, _SIZE, _boxes(rng, count), rng.integers(0, classes, count), rng.random(count)
    )


def measure(
    instances: int, images: int, labeled: int, classes: int, workers: int, folder: str
) -> Dict[str, Any]:
    """Times in seconds, sizes in bytes.

    Args:
        instances: in the pseudo bank, over `images` unlabelled images. labeled: instances in the
            labelled bank.
        workers: forked processes that draw at the same time. folder: for snapshots.
    """
    rng = np.random.default_rng(0)
    found: Dict[str, Any] = {"instances": instances, "images": images, "labeled": labeled}
    boxes = _boxes(rng, labeled).tolist()
    records = [
        {
            "file_name": f"datasets/coco/train2017/{index:012d}.jpg",
            "height": _SIZE[0],
            "width": _SIZE[1],
            "annotations": [
                {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": (index + i) % classes}
                for i, box in enumerate(boxes[index::images])
            ],
        }
        for index in range(images)
    ]
    found["start_labeled_bank"], bank = _timed(labeled_instances, records, classes)
    names = [record["file_name"] for record in records]
    found["start_file_names"], file_names = _timed(FileNames, names)
    del records, names

    pseudo = PseudoBank(images, classes)
    counts = np.full(images, instances // images)
    counts[: instances - counts.sum()] += 1
    whole = np.concatenate([_labels(rng, i, int(n), classes) for i, n in enumerate(counts)])
    found["first_sweep"], _ = _timed(pseudo.replace, whole)
    found["checkpoint"], state = _timed(pseudo.state)
    found["checkpoint_bytes"] = state.nbytes
    found["resume"], _ = _timed(PseudoBank(images, classes).load, state)
    del whole, state
    steps = [
        np.concatenate([_labels(rng, int(i), instances // images, classes) for i in row])
        for row in rng.integers(0, images, (200, _BATCH))
    ]
    found["update_per_step"] = _timed(list, map(pseudo.replace, steps))[0] / 200

    board = SnapshotBoard(folder, delay=1)
    found["collect"], published = _timed(pseudo.instances)
    arrays = {**published.arrays(), "probabilities": np.full(classes, 1 / classes)}
    found["write"], id = _timed(board.publish, "CropBank", arrays, 0)
    found["snapshot_bytes"] = sum(array.nbytes for array in arrays.values())
    del published, arrays, pseudo

    found["open"], _ = _timed(SnapshotReader(folder).open, "CropBank", id)
    found["draw"] = {
        str(size): _seconds_per_draw(classes, size) for size in (1_000, 30_000, instances)
    }
    found["workers"] = _in_workers(workers, folder, id, bank, file_names)
    return found


def _seconds_per_draw(classes: int, size: int) -> float:
    """Of a bank of `size` instances in memory."""
    rng = np.random.default_rng(0)
    rows = np.arange(size)
    boxes = np.zeros((size, 4))
    bank = Instances.sort(boxes, rows, rows, boxes[:, :2], rows % classes, classes)
    even = np.full(classes, 1 / classes)
    start = time.perf_counter()
    for _ in range(_DRAWS):
        draw_instance(rng, {1: bank}, even)
    return (time.perf_counter() - start) / _DRAWS


def _in_workers(
    workers: int, folder: str, id: int, bank: Instances, file_names: FileNames
) -> List[Dict[str, float]]:
    """The measurements of several simultaneous workers, forked like a loader's."""
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    barrier = context.Barrier(workers)

    def work(seed: int) -> None:
        before = _private_bytes()
        snapshot = SnapshotReader(folder).open("CropBank", id)
        banks = {0: bank, 1: Instances.from_arrays(snapshot.arrays)}
        # Every page of every array is touched, as in a long run.
        for instances in banks.values():
            for array in instances.arrays().values():
                np.add.reduce(array, axis=None)
        probabilities = np.asarray(snapshot.arrays["probabilities"])
        rng = np.random.default_rng(seed)
        start = time.perf_counter()
        for _ in range(_DRAWS):
            draw = draw_instance(rng, banks, probabilities)
            assert draw is not None
            source = banks[draw.bank]
            source.boxes[draw.row], file_names[int(source.images[draw.row])]
        seconds = (time.perf_counter() - start) / _DRAWS
        barrier.wait()
        row = {"draw_and_look_up": seconds, "more_private_bytes": _private_bytes() - before}
        barrier.wait()
        queue.put(row)

    processes = [context.Process(target=work, args=(seed,)) for seed in range(workers)]
    for process in processes:
        process.start()
    rows = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return rows


def _private_bytes() -> float:
    """Memory that only this process uses; NaN if the system does not report it."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            rows = dict(line.split(":", 1) for line in lines if ":" in line and "kB" in line)
    except OSError:
        return float("nan")
    return sum(1024 * int(rows[key].split()[0]) for key in ("Private_Clean", "Private_Dirty"))


def table(found: Dict[str, Any]) -> str:
    """The result of `measure` as a text table."""
    mib = 2**20
    lines = [
        f"{found['instances']:,} pseudo-labels in {found['images']:,} images, {found['labeled']:,} labelled instances",
        f"start-up   labelled bank {found['start_labeled_bank']:.2f} s, file names {found['start_file_names']:.2f} s",
        f"state      first sweep {found['first_sweep']:.2f} s, to checkpoint {found['checkpoint']:.2f} s "
        f"({found['checkpoint_bytes'] / mib:.0f} MiB), resume {found['resume']:.2f} s",
        f"refresh    {found['update_per_step'] * 1e3:.2f} ms a step of {_BATCH} images; publication: collect "
        f"{found['collect']:.2f} s, write {found['write']:.2f} s ({found['snapshot_bytes'] / mib:.0f} MiB)",
        "sampling   "
        + ", ".join(f"{1e6 * s:.1f} us of {int(n):,}" for n, s in found["draw"].items())
        + f"; opening a snapshot {found['open'] * 1e3:.1f} ms",
    ]
    for index, row in enumerate(found["workers"]):
        lines.append(
            f"worker {index}   {row['draw_and_look_up'] * 1e6:.1f} us a draw with its file name, "
            f"{row['more_private_bytes'] / mib:.1f} MiB more private memory after touching both banks"
        )
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m ssod.tools.crop_bank_scale",
        description="Measure start-up, refresh, sampling and worker memory of a large CropBank.",
    )
    parser.add_argument("--instances", type=int, default=1_000_000, help="in the pseudo bank")
    parser.add_argument("--images", type=int, default=120_000, help="that hold them")
    parser.add_argument("--labeled", type=int, default=100_000, help="labelled instances")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )
    args = parser.parse_args(argv)
    for key in ("instances", "images", "labeled", "classes", "workers"):
        if getattr(args, key) < 1:
            raise UserError(f"--{key} is {getattr(args, key)}: it must be at least 1.")
    if not hasattr(os, "fork"):
        raise UserError("This system cannot fork processes: run the measurement on Linux.")
    with tempfile.TemporaryDirectory(prefix="ssod-crop-bank-") as folder:
        found = measure(
            args.instances, args.images, args.labeled, args.classes, args.workers, folder
        )
    print(json.dumps(found) if args.json else table(found))


if __name__ == "__main__":
    run_cli(main)
