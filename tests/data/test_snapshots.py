from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ssod.data.snapshots import SnapshotBoard
from ssod.errors import UserError


def _board(tmp_path: Path, delay: int = 3) -> SnapshotBoard:
    return SnapshotBoard(str(tmp_path / "snapshots"), delay)


def test_takes_effect_after_the_delay(tmp_path: Path) -> None:
    board = _board(tmp_path)
    assert board.in_effect(100) == ()
    assert board.publish("B", {"x": np.arange(3)}, 5) == 0
    assert board.publish("A", {"y": np.zeros((0, 4), np.float32)}, 6) == 0
    assert board.publish("B", {"x": np.arange(4)}, 9) == 1
    assert board.in_effect(7) == ()
    assert board.in_effect(8) == (("B", 0),)
    assert board.in_effect(9) == board.in_effect(11) == (("A", 0), ("B", 0))
    assert board.in_effect(12) == (("A", 0), ("B", 1))
    assert board.array_names("B", 1) == ("x",)
    with pytest.raises(ValueError):
        board.publish("B", {"x": np.arange(3)}, 8)


def test_arrays_are_read_only_maps_and_cached(tmp_path: Path) -> None:
    board = _board(tmp_path)
    board.publish("A", {"x": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "bc"])}, 0)
    board.publish("A", {"empty": np.zeros((0, 4), np.float32)}, 1)
    arrays = board.load("A", 0)
    assert isinstance(arrays["x"], np.memmap) and arrays["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["names"].tolist() == ["a", "bc"]
    assert board.load("A", 1)["empty"].shape == (0, 4)
    with pytest.raises(ValueError):
        arrays["x"][0] = 1
    assert board.load("A", 0)["x"] is arrays["x"]
    copy = pickle.loads(pickle.dumps(board.reader))
    assert copy.open("A", 0).arrays["x"][1, 2] == 5
    with pytest.raises(ValueError):
        board.publish("A", {"x": np.array([{}], dtype=object)}, 2)


def test_state_round_trip_and_stale_files(tmp_path: Path) -> None:
    board = _board(tmp_path)
    board.publish("A", {"x": np.array([1])}, 0)
    path = tmp_path / "state.pth"
    torch.save(board.state_dict(), path)
    board.publish("A", {"x": np.array([2]), "stale": np.array([0])}, 4)
    assert board.load("A", 1)["x"][0] == 2

    board.load_state_dict(torch.load(path, weights_only=True))
    assert board.in_effect(100) == (("A", 0),)
    assert board.publish("A", {"x": np.array([3])}, 4) == 1
    assert dict(board.load("A", 1)).keys() == {"x"} and board.load("A", 1)["x"][0] == 3

    resumed = _board(tmp_path)
    resumed.load_state_dict(torch.load(path, weights_only=True))
    assert resumed.load("A", 0)["x"][0] == 1


def test_prune_keeps_what_may_still_be_asked_for(tmp_path: Path) -> None:
    board = _board(tmp_path)
    for step in (0, 10, 20, 30):
        board.publish("A", {"x": np.array([step])}, step)
    board.prune(keep_from_step=24)
    assert board.in_effect(22) == ()
    assert [board.in_effect(step) for step in (23, 24, 33)] == [
        (("A", 2),),
        (("A", 2),),
        (("A", 3),),
    ]
    assert sorted(os.listdir(tmp_path / "snapshots" / "A")) == ["000002", "000003"]
    assert board.load("A", 2)["x"][0] == 20
    assert board.publish("A", {"x": np.array([40])}, 40) == 4


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    board = _board(tmp_path)
    board.check_delay(workers=1, prefetch=2)
    with pytest.raises(UserError, match="SSOD.SNAPSHOT_DELAY 3 .* at least 5"):
        board.check_delay(workers=2, prefetch=2)
    with pytest.raises(UserError, match="000007.*OUTPUT_DIR"):
        board.load("A", 7)
    (tmp_path / "snapshots").write_text("a file in the way")
    with pytest.raises(UserError, match="cannot write"):
        board.publish("A", {"x": np.array([1])}, 0)
