"""The simulation of a start on many images, on few."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runs import method_cfg
from ssod.tools import scale

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
