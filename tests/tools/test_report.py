"""The report command."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod.errors import UserError
from ssod.tools.report import main


def young_run(folder: Path) -> str:
    folder.mkdir()
    (folder / "metrics.json").write_text('{"iteration": 19, "total_loss": 1.0}\n')
    return str(folder)


def test_where_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = young_run(tmp_path / "one"), young_run(tmp_path / "two")
    main([one])
    main([one, two])
    main([one, "--output", str(tmp_path / "named.html")])
    assert [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        str(tmp_path / "one" / "report.html"),
        "./report.html",
        str(tmp_path / "named.html"),
    ]
    assert "two" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("**/*.tmp"))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        main([str(tmp_path / "none")])
    run = young_run(tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"):
        main([run, "--output", str(tmp_path / "no" / "such.html")])
