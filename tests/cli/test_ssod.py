"""The command `ssod`: help, suggestions, exit status, and every subcommand of the table."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from ssod import __version__
from ssod.cli import commands
from ssod.cli import main as cli
from ssod.errors import UserError

ROOT = Path(__file__).parents[2]
ALL = list(commands.commands())


def run(*words: str, folder: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`ssod` in a process of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(
        [sys.executable, "-m", "ssod", *words], cwd=folder, env=env, capture_output=True, text=True
    )


def fake(monkeypatch: pytest.MonkeyPatch, result: Any) -> List[List[str]]:
    """Replaces `ssod report` by a function that returns or raises `result`; gives its calls."""
    calls: List[List[str]] = []

    def main(argv: List[str]) -> Any:
        calls.append(argv)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(importlib.import_module("ssod.tools.report"), "main", main)
    return calls


def test_names_are_different_and_the_help_lists_each_on_one_line() -> None:
    lines = cli.help_text().splitlines()
    assert len({command.name for command in ALL}) == len(ALL)
    for command in ALL:
        (line,) = [line for line in lines if line.startswith(f"  {command.name} ")]
        assert line.endswith(command.help) and len(line) <= 80
    assert all(title in lines for title in commands.GROUPS)


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_every_subcommand_explains_itself(
    command: commands.Command, capsys: pytest.CaptureFixture
) -> None:
    main = importlib.import_module(command.module).main
    assert len(inspect.signature(main).parameters) == 1
    with pytest.raises(SystemExit) as stop:
        cli.main([command.name, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and len(printed) > 200
    if command.name != "digit-scenes":  # a script of its own
        assert printed.startswith(f"usage: ssod {command.name}")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["trian"], ["help"]])
def test_help_needs_no_heavy_package(words: List[str], tmp_path: Path) -> None:
    blocked = ("torch", "detectron2", "numpy", "cv2", "PIL", "yaml", "matplotlib")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))"
    (tmp_path / "sitecustomize.py").write_text(code)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = run(*words, folder=tmp_path, PYTHONPATH=paths)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if words == ["trian"] else 0)
    if words == ["--version"]:
        assert done.stdout == f"ssod {__version__}\n"


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("trian", "train"),
        ("Train", "train"),
        ("evalute", "evaluate"),
        ("make_split", "splits"),
        ("pseudolabel", "pseudo-label"),
        ("visualize_", "visualise"),
        ("docter", "doctor"),
    ],
)
def test_nearest_subcommand(typed: str, meant: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([typed]) == 2
    assert f"did you mean `ssod {meant}`?" in capsys.readouterr().err


def test_nothing_near(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["zzzzzz"]) == 2
    assert "`ssod --help` lists them" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["visualize", "eval", "make_splits", "run_phases"])
def test_other_spellings(name: str) -> None:
    assert commands.find(name) in ALL


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture) -> None:
    assert cli.main([]) == 2
    assert "usage: ssod COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("result, status", [(None, 0), (0, 0), (1, 1), ("a path", 0)])
def test_status_of_the_subcommand(
    monkeypatch: pytest.MonkeyPatch, result: Any, status: int
) -> None:
    calls = fake(monkeypatch, result)
    assert cli.main(["report", "run", "--output", "page.html"]) == status
    assert calls == [["run", "--output", "page.html"]]


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("the file\nis gone"), 1, "error: the file is gone\n"),
        (KeyboardInterrupt(), 130, "Stopped by Ctrl-C.\n"),
        (MemoryError(), 1, "error: The memory is exhausted"),
        (ImportError("No module named 'x'", name="x"), 1, "ssod.tools.doctor"),
    ],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: BaseException,
    status: int,
    line: str,
) -> None:
    fake(monkeypatch, error)
    assert cli.main(["report", "run"]) == status
    printed = capsys.readouterr().err
    assert line in printed and printed.count("\n") == 1


def test_a_bug_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "run"])


def test_usage_error_of_a_subcommand() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train"])
    assert stop.value.code == 2


def test_reader_that_stops_reading() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.Popen(
        [sys.executable, "-m", "ssod", "configs"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    program.wait()


def test_missing_torch_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = run("train", "--config-file", "x.yaml", folder=tmp_path, PYTHONPATH=paths)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "ssod.tools.doctor" in done.stderr and done.stderr.count("\n") == 1
