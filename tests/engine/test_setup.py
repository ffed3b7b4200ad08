"""Configs from files and the command line; every mistake is one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from ssod.engine.setup import load_config, run_cli, setup
from ssod.errors import UserError


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_file_over_base_over_defaults(tmp_path: Path) -> None:
    write(
        tmp_path,
        "base.yaml",
        "SOLVER: {MAX_ITER: 5, OPTIMIZER: AdamW}\nSSOD: {DATASETS: {mine: {FORMAT: coco}}}",
    )
    path = write(tmp_path, "run.yaml", "_BASE_: base.yaml\nSOLVER: {MAX_ITER: 6}")
    cfg = load_config(path, ["SSOD.EMA.DECAY", "0.5", "SSOD.METHODS", "('ScoreThreshold',)"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.OPTIMIZER, cfg.SSOD.EMA.DECAY) == (6, "AdamW", 0.5)
    assert cfg.SSOD.DATASETS.mine.FORMAT == "coco" and cfg.SSOD.METHODS == ("ScoreThreshold",)
    assert not cfg.is_frozen()


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "SSOD: {BURNIN_STEPS: 5}",
            r"c.yaml: there is no key SSOD.BURNIN_STEPS; did you mean SSOD.BURN_IN_STEPS\?",
        ),
        ("SSOD: {OPTIMIZER: SGD}", r"no key SSOD.OPTIMIZER; did you mean SOLVER.OPTIMIZER\?"),
        ("SOLVER: {MAX_ITER: many}", "c.yaml: .*SOLVER.MAX_ITER"),
        ("SOLVER: 3", "c.yaml: .*SOLVER"),
        ("", "c.yaml: it or its _BASE_ is empty"),
        ("- 1", "c.yaml: it or its _BASE_ is empty or no mapping"),
        ("just text", "c.yaml: it or its _BASE_ is empty or no mapping"),
        ("SOLVER: [", "c.yaml is no valid YAML"),
        ("_BASE_: none.yaml", "c.yaml: its _BASE_ .*none.yaml does not exist"),
        ("_BASE_: .", "c.yaml: its _BASE_ .* is no file"),
        ("SEED: null", "SEED is empty"),
        ("_BASE_: c.yaml", "c.yaml: its _BASE_ leads back to itself"),
        ("_BASE_: bad.yaml", "c.yaml.*python/object"),
        (
            "OUTPUT_DIR: !!python/object/apply:os.system ['touch RAN']",
            "c.yaml in line 1: .*python/object",
        ),
    ],
)
def test_mistakes_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "bad.yaml", "OUTPUT_DIR: !!python/object/apply:os.system ['touch RAN']")
    with pytest.raises(UserError, match=message) as caught:
        load_config(write(tmp_path, "c.yaml", text))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SOLVER.MAX_ITER"], "KEY VALUE pairs"),
        (
            ["SOLVER.MAX_ITERS", "5"],
            r"there is no key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER\?",
        ),
        (["NONSENSE.KEY.AT.ALL", "5"], "there is no key NONSENSE.KEY.AT.ALL"),
        (["SOLVER.MAX_ITER", "x"], "command line: .*SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0: use 1 or more"),
        (["SOLVER.GRADIENT_ACCUMULATION_STEPS", "0"], "STEPS is 0: use 1 or more"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu': use cuda or cpu"),
        (["MODEL.DEVICE", "None"], "MODEL.DEVICE is empty"),
    ],
)
def test_mistakes_in_overrides(opts: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("", opts)


def test_missing_file() -> None:
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


def test_run_cli(capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise UserError("this is\nwrong")

    with pytest.raises(SystemExit) as caught:
        run_cli(main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: this is wrong\n"


def test_setup_writes_a_config_that_loads_again(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    args = argparse.Namespace(
        config_file="", opts=["OUTPUT_DIR", output, "SOLVER.MAX_ITER", "3", "SEED", "1"]
    )
    cfg = setup(args)
    assert cfg.is_frozen() and (tmp_path / "out" / "log.txt").exists()
    again = load_config(f"{output}/config.yaml")
    assert json.dumps(again) == json.dumps(cfg)  # tuples come back as lists, where lists nest
