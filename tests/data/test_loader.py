from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BoxMode
from PIL import Image

from ssod.config import add_ssod_config
from ssod.data.loader import AspectGroups, TrainLoader, build_train_loader, pack, unpack
from ssod.data.snapshots import Snapshot, SnapshotBoard
from ssod.errors import UserError
from ssod.structures import Sample, SSODBatch

DELAY = 5


class Stamp:
    """Notes the snapshot it was given."""

    def __call__(
        self, sample: Sample, rng: np.random.Generator, snapshot: Optional[Snapshot]
    ) -> Sample:
        value = -1 if snapshot is None else int(snapshot.arrays["x"][0])
        return dataclasses.replace(sample, extras={"stamp": (value, int(rng.integers(1 << 30)))})


def _records(folder: Path, count: int, labeled: bool) -> List[Dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    rng, records = np.random.default_rng(count), []
    for index in range(count):
        height, width = (24, 32) if index % 3 else (32, 24)
        path = folder / f"{index}.png"
        if not path.exists():
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        record: Dict[str, Any] = {"file_name": str(path), "image_id": index}
        if labeled:
            box = {"bbox": [2, 2, 9, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": index % 2}
            record.update(height=height, width=width, annotations=[box])
        records.append(record)
    return records


def _cfg(workers: int) -> CfgNode:
    cfg = get_cfg()
    add_ssod_config(cfg)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (20, 24, 28), 40
    cfg.SOLVER.IMS_PER_BATCH, cfg.SSOD.IMS_PER_BATCH_UNLABELED = 2, 3
    cfg.SSOD.METHODS, cfg.SSOD.BURN_IN_STEPS = ("Stamp",), 2
    return cfg


def _loader(
    tmp_path: Path, workers: int, board: Optional[SnapshotBoard] = None, **keywords: Any
) -> TrainLoader:
    return build_train_loader(
        _cfg(workers),
        _records(tmp_path / "labeled", 5, True),
        _records(tmp_path / "unlabeled", 9, False),
        view_transforms={"Stamp": Stamp()},
        board=board,
        seed=4,
        **keywords,
    )


def _content(batch: SSODBatch) -> Any:
    rows = []
    for s in batch.labeled + batch.unlabeled:
        boxes = [] if s.instances is None else s.instances.gt_boxes.tensor.tolist()
        pixels = s.weak.numpy().tobytes(), s.strong.numpy().tobytes()
        rows.append(
            (s.ref, s.file_name, s.geometry.matrix.tolist(), boxes, pixels, s.extras, s.skipped)
        )
    return rows, batch.sampler_state


def _run(tmp_path: Path, workers: int, steps: int, state: Any = None) -> List[Any]:
    """A training loop that publishes a snapshot after every third step, resumed from `state` if
    given.
    """
    board = SnapshotBoard(str(tmp_path / f"board{workers}{state is None}"), DELAY)
    start = 0
    if state is not None:
        start, sampler_state, board_state, source = state
        board = SnapshotBoard(source, DELAY)
        board.load_state_dict(board_state)
    loader = _loader(tmp_path, workers, board, state=state and sampler_state, start_step=start)
    seen = []
    for step, batch in zip(range(start, steps), loader):
        if step % 3 == 2:
            board.publish("Stamp", {"x": np.array([step])}, step)
        seen.append((_content(batch), board.state_dict(), board.reader.root))
    return seen


def test_no_workers_two_workers_and_resumed_are_the_same(tmp_path: Path) -> None:
    plain = _run(tmp_path, 0, 16)
    forked = _run(tmp_path, 2, 16)
    assert [row[:2] for row in forked] == [row[:2] for row in plain]
    stamps = [row[0][0][0][5]["stamp"][0] for row in plain]
    # Published after steps 2, 5 and 8, in effect five steps later, exactly.
    assert stamps == [-1] * 7 + [2] * 3 + [5] * 3 + [8] * 3
    assert [len(row[0][0]) for row in plain] == [2, 2] + [5] * 14
    for workers, cut in ((0, 8), (2, 9)):
        content, board_state, root = forked[cut - 1]
        resumed = _run(tmp_path, workers, 16, (cut, content[1], board_state, root))
        assert [row[:2] for row in resumed] == [row[:2] for row in plain[cut:]]


def test_damaged_images_are_replaced_alike_and_listed(tmp_path: Path) -> None:
    _loader(tmp_path, 0)
    bad = [tmp_path / "unlabeled" / "3.png", tmp_path / "unlabeled" / "4.png"]
    bad[0].write_bytes(b"x")
    bad[1].unlink()

    def run(workers: int) -> List[SSODBatch]:
        records = [{"file_name": str(tmp_path / "unlabeled" / f"{i}.png")} for i in range(9)]
        loader = build_train_loader(
            _cfg(workers), _records(tmp_path / "labeled", 5, True), records, seed=4, start_step=2
        )
        return list(islice(loader, 8))

    plain, forked = run(0), run(2)
    assert [_content(b) for b in plain] == [_content(b) for b in forked]
    samples = [s for batch in plain for s in batch.unlabeled]
    assert {name for s in samples for name, _ in s.skipped} == {str(path) for path in bad}
    for sample in samples:
        assert sample.file_name.endswith(f"{sample.ref.index}.png")
        assert sample.file_name not in map(str, bad)
    assert [s.ref.position for s in samples] == list(range(24))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_damaged_images_ends_in_one_line(tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    record = {"file_name": str(tmp_path / "bad.png"), "annotations": [], "height": 1, "width": 1}
    loader = build_train_loader(_cfg(workers), [record], [], seed=0)
    with pytest.raises(UserError, match="bad.png") as caught:
        next(iter(loader))
    assert "\n" not in str(caught.value)


def test_nothing_starts_before_the_first_batch(tmp_path: Path) -> None:
    board = SnapshotBoard(str(tmp_path / "board"), DELAY)
    loader = _loader(tmp_path, 0, board, start_step=6)
    batches = iter(loader)
    board.publish("Stamp", {"x": np.array([1])}, 1)
    assert next(batches).labeled[0].extras["stamp"][0] == 1


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    for workers in (0, 1):
        torch.manual_seed(1)
        np.random.seed(1)
        next(iter(_loader(tmp_path, workers)))
        after = torch.rand(1).item(), np.random.rand()
        torch.manual_seed(1)
        np.random.seed(1)
        assert after == (torch.rand(1).item(), np.random.rand())


def test_pack_round_trip_shares_one_buffer() -> None:
    shared = torch.arange(3)
    value = {
        "a": torch.tensor([1.5, 2.5]),
        "b": [torch.zeros(0, 4), shared, torch.tensor(True), torch.arange(6).view(2, 3).t()],
        "c": np.arange(2),
    }
    content, flat = pack(value)
    back = unpack((content, flat))
    assert torch.equal(back["a"], value["a"]) and back["c"].tolist() == [0, 1]
    for got, expected in zip(back["b"], value["b"]):
        assert got.dtype == expected.dtype and torch.equal(got, expected)
    storage = flat.untyped_storage().data_ptr()
    assert back["a"].untyped_storage().data_ptr() == storage


def test_aspect_groups_read_headers_once_and_only_when_asked(tmp_path: Path) -> None:
    records = _records(tmp_path / "images", 4, False)
    sideways = Image.new("RGB", (32, 24))
    exif = sideways.getexif()
    exif[274] = 6
    sideways.save(tmp_path / "images" / "1.png", exif=exif)
    (tmp_path / "images" / "2.png").write_bytes(b"x")
    groups = AspectGroups(records, records)
    assert [groups(i) for i in range(3)] == [1, 1, 0]
    (tmp_path / "images" / "0.png").unlink()
    assert groups(0) == 1
    known = [{"file_name": "nowhere", "height": 2, "width": 3}]
    assert AspectGroups(known, known)(0) == 0


def test_config_errors_and_options(tmp_path: Path) -> None:
    cfg = _cfg(8)
    labeled = _records(tmp_path / "labeled", 5, True)
    board = SnapshotBoard(str(tmp_path / "board"), 16)
    with pytest.raises(UserError, match="SSOD.SNAPSHOT_DELAY 16 .* at least 17"):
        build_train_loader(cfg, labeled, labeled, board=board, seed=0)
    cfg.SSOD.METHODS, cfg.DATALOADER.NUM_WORKERS = (), 0
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 2.4
    batch = next(iter(build_train_loader(cfg, labeled, labeled, board=board, seed=0, start_step=9)))
    assert len(batch.labeled) == 2 and batch.unlabeled == []
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    with pytest.raises(UserError, match="DATALOADER.SAMPLER_TRAIN RandomSubset"):
        build_train_loader(cfg, labeled, [], seed=0)
    with pytest.raises(UserError, match="labeled set has no images"):
        build_train_loader(_cfg(0), [], [], seed=0)
    cfg = _cfg(0)
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 2
    with pytest.raises(UserError, match="SSOD.IMS_PER_BATCH_UNLABELED 3"):
        build_train_loader(cfg, labeled, labeled, seed=0)
