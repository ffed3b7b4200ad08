"""The simulation of a start on many images, on few."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ci_steps import labels_of
from runs import method_cfg
from ssod.methods.acrst.crop_bank.bank import PseudoBank, pack_labels
from ssod.methods.ci_ssod.label_memory import LabelMemory
from ssod.tools import scale
from tiny import make_sample

METHODS = ("ClassRebalancingSampling", "CropBank")


@pytest.fixture
def config(squares: Path, tmp_path: Path) -> Path:
    cfg = method_cfg(squares, tmp_path / "run", METHODS, 4)
    cfg.SSOD.IMPORTS = ("tiny",)
    cfg.SSOD.pop("TOY", None)  # of the tests' own method, which the command does not know
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    return path


def test_a_start_without_images(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output, folder = tmp_path / "scale.json", tmp_path / "sets"
    counts = ["--labeled", "300", "--unlabeled", "3000", "--workers", "2", "--reads", "500"]
    files = ["--folder", str(folder), "--output", str(output)]
    scale.main(["--config-file", str(config), *counts, *files])
    text, found = capsys.readouterr().out, json.loads(output.read_text())
    assert "300 labelled and 3,000 unlabelled images" in text
    assert (found["labeled"], found["unlabeled"]) == (300, 3000)
    assert list(folder.iterdir()) == []  # nothing is left
    # Each part of the start was passed, those of the methods too.
    parts = {"hashes of the files", "labelled records", "unlabelled records", "first snapshots"}
    assert parts | {f"{name}.setup" for name in METHODS} <= set(found["seconds"])
    # A name of 23 bytes, a place in the buffer, an id, a size; no Python object.
    assert found["record_bytes"]["unlabeled"] < 50 * 3000
    # 7.3 boxes with four float64, an area, a class, a crowd flag.
    assert found["record_bytes"]["labeled"] < 300 * (50 + 60 * 9)
    assert min(found["view_cpu_seconds"].values()) > 0
    workers = found["workers"]
    assert [worker["reads"] for worker in workers] == [5, 5, 500, 500]
    assert all(0 < worker["private"] <= worker["pss"] <= worker["rss"] for worker in workers)


def test_wrong_numbers(config: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        scale.main(["--config-file", str(config), "--workers", "0"])
    assert "--workers 0: use at least 1" in capsys.readouterr().err


def test_what_a_checkpoint_holds_of_each_visited_image() -> None:
    """The bytes that docs/scale.md computes with: 56 an image and label, 16 an image and class."""
    bank = PseudoBank(10, 4)
    for image in (3, 7):
        labels = np.ones((3, 4)) * [0, 0, 5, 5]
        bank.replace(pack_labels(image, (40, 60), labels, np.array([0, 1, 1]), np.ones(3)))
    assert bank.state().nbytes == 56 * (2 + 2 * 3)
    assert sum(a.nbytes for a in bank.instances().arrays().values()) == 32 * 6 + 8 * 5
    memory = LabelMemory(4)
    memory.remember([make_sample(7, False)], labels_of([[(0, 0.5), (1, 0.9), (1, 0.8)]]))
    assert memory.get_extra_state().nbytes == 16 * (1 + 2)
