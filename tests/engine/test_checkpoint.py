"""Checkpoints: reading them, refusing them, and the files after a killed process."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch
from torch import nn

from ssod.engine.checkpoint import SSODCheckpointer
from ssod.errors import UserError
from ssod.utils import atomic


class Counter:
    """A checkpointable that is no module."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> Dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.value = state["value"]


def test_save_and_resume(tmp_path: Path) -> None:
    model, counter = nn.Linear(2, 3), Counter(7)
    SSODCheckpointer(model, str(tmp_path), counter=counter).save("model_0000004", iteration=4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000004.pth"]

    other, fresh = nn.Linear(2, 3), Counter()
    rest = SSODCheckpointer(other, str(tmp_path), counter=fresh).resume_or_load("", resume=True)
    assert rest == {"iteration": 4} and fresh.value == 7
    assert torch.equal(model.weight, other.weight)


def test_without_resume_only_weights_are_loaded(tmp_path: Path) -> None:
    SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), counter=Counter(7)).save("model_final")
    counter = Counter(1)
    checkpointer = SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), counter=counter)
    checkpointer.resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    assert counter.value == 1


def test_other_files_leave_the_pointer(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    checkpointer = SSODCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    checkpointer.save("model_best", tag_last=False)
    path = checkpointer.save_weights("teacher_best", model.state_dict())
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert list(torch.load(path, weights_only=True)) == ["model"]
    assert torch.equal(checkpointer.load_file(path)["model"]["weight"], model.weight)


def test_absent_checkpointables_start_fresh(tmp_path: Path) -> None:
    SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), a=Counter(5)).save("model_0")
    a, methods = Counter(), Counter(3)
    SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), a=a, methods=methods).resume_or_load("")
    assert (a.value, methods.value) == (5, 3)


class Killed(BaseException):
    """Stands for kill -9: no handler of the code under test sees it as an error."""


def test_killed_at_any_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), counter=Counter(1))
    checkpointer.save("model_1")
    calls = {"left": 0}

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "open", "makedirs"):
        monkeypatch.setattr(atomic.os, name, counted(getattr(os, name)))
    survived = set()
    for allowed in range(20):
        calls["left"] = allowed
        step = 2 + allowed
        checkpointer.checkpointables["counter"].value = step
        try:
            checkpointer.save(f"model_{step}")
            finished = True
        except Killed:
            finished = False
        calls["left"] = 10**6
        pointed = (tmp_path / "last_checkpoint").read_text()
        counter = Counter()
        SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), counter=counter).resume_or_load("")
        assert pointed == f"model_{counter.value}.pth"
        survived.add((finished, counter.value == step))
        if finished:
            break
    # Killed before the pointer moved, killed after it, and not killed: each was seen.
    assert survived == {(False, False), (False, True), (True, True)}


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    checkpointer = SSODCheckpointer(nn.Linear(2, 3), str(tmp_path))
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match="model_1.pth: No space left"):
        checkpointer.save("model_1")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_resume_from_a_bad_file(tmp_path: Path, damage: str) -> None:
    checkpointer = SSODCheckpointer(nn.Linear(200, 30), str(tmp_path))
    checkpointer.save("model_1")
    checkpointer.save("model_2")
    file = tmp_path / "model_2.pth"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(64)
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(
        UserError, match=r"model_2.pth.*write model_1.pth into .*last_checkpoint"
    ) as caught:
        checkpointer.resume_or_load("", resume=True)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    checkpointer = SSODCheckpointer(nn.Linear(2, 3), str(tmp_path))
    with pytest.raises(UserError, match="nowhere.pth does not exist"):
        checkpointer.load(str(tmp_path / "nowhere.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="text.pth is cut off, damaged or no PyTorch file"):
        checkpointer.load_file(str(tmp_path / "text.pth"))
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(UserError, match="list.pth holds a list"):
        checkpointer.load_file(str(tmp_path / "list.pth"))
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "class.pth")
    with pytest.raises(UserError, match="class.pth holds a torch.nn.modules.linear.Linear"):
        checkpointer.load_file(str(tmp_path / "class.pth"))
    strange = {
        "number.pth": {"model": 3},
        "teacher.pth": {"model": {}, "teacher": 5},
        "keys.pth": {5: torch.zeros(1)},
        "zoo.pkl": {"model": 3, "__author__": "x"},
        "blobs.pkl": {"blobs": 3},
        "keys.pkl": {5: 3},
        "state.pyth": {"model_state": 3},
    }
    for name, content in strange.items():
        path = tmp_path / name
        if name.endswith(".pkl"):
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path)
        for read in (checkpointer.load_file, checkpointer.load):
            with pytest.raises(UserError, match=name):
                read(str(path))


def test_another_configuration(tmp_path: Path) -> None:
    SSODCheckpointer(nn.Linear(2, 3), str(tmp_path), teacher=nn.Linear(2, 3)).save("model_1")
    other = SSODCheckpointer(nn.Linear(2, 4), str(tmp_path), teacher=nn.Linear(2, 4))
    with pytest.raises(
        UserError, match="model_1.pth does not fit this configuration.*size mismatch"
    ):
        other.resume_or_load("")


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bottom_up = nn.ModuleDict(
            {"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 3, bias=False)})}
        )


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_published_backbone_matches_by_heuristics(tmp_path: Path, protocol: int) -> None:
    weight = np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3)
    content = {
        "model": collections.OrderedDict({"stem.conv1.weight": weight}),
        "__author__": "MSRA",
        "matching_heuristics": True,
        "scale": np.float64(2.0),
    }
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    model = Backbone()
    SSODCheckpointer(model).load(str(path), checkpointables=[])
    assert np.array_equal(model.bottom_up["stem"]["conv1"].weight.detach().numpy(), weight)


def test_caffe2_names(tmp_path: Path) -> None:
    weight = np.ones((4, 3, 3, 3), dtype=np.float32)
    path = tmp_path / "c2.pkl"
    path.write_bytes(
        pickle.dumps({"blobs": {"conv1_w": weight, "conv1_w_momentum": weight}}, protocol=2)
    )
    model = Backbone()
    SSODCheckpointer(model).load(str(path), checkpointables=[])
    assert model.bottom_up["stem"]["conv1"].weight.sum().item() == 108


class Evil:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def test_pickles_run_nothing(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    (tmp_path / "evil.pkl").write_bytes(
        pickle.dumps({"model": Evil(str(target)), "__author__": "x"})
    )
    torch.save({"model": Evil(str(target))}, tmp_path / "evil.pth")
    for name, asked in (
        ("evil.pkl", r"evil.pkl .*(posix|nt)\.system"),
        ("evil.pth", r"evil.pth .*\.system"),
    ):
        with pytest.raises(UserError, match=asked):
            SSODCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / name))
    assert not target.exists()
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"a": np.ones(9)})[:-20])
    with pytest.raises(UserError, match="cut.pkl cannot be read"):
        SSODCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "cut.pkl"))
