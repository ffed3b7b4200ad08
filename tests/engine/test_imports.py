"""SSOD.IMPORTS: a user's own modules."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Iterator

import pytest
import torch
from detectron2.modeling import build_backbone

from ssod.engine.setup import load_config
from ssod.errors import UserError

MODULE = """
from detectron2.config import CfgNode

def add_mine_config(cfg):
    cfg.MODEL.MINE = CfgNode({"WIDTH": 8})

def add_other_config(cfg, more):  # never called: it is imported by name below
    raise AssertionError
del add_other_config
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module, which is forgotten afterwards."""
    (tmp_path / "parts_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in [name for name in sys.modules if "_of_mine" in name]:
        del sys.modules[name]


def test_keys_of_a_file_its_base_and_the_command_line(folder: Path) -> None:
    (folder / "base.yaml").write_text("SSOD: {IMPORTS: [parts_of_mine]}\n")
    (folder / "c.yaml").write_text("_BASE_: base.yaml\nMODEL: {MINE: {WIDTH: 16}}\n")
    cfg = load_config("c.yaml", ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.MINE.WIDTH == 16 and list(cfg.SSOD.IMPORTS) == ["parts_of_mine"]
    given = ["SSOD.IMPORTS", "['parts_of_mine']", "MODEL.MINE.WIDTH", "4"]
    assert load_config("", given).MODEL.MINE.WIDTH == 4


def test_example_of_the_docs(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
    code, config = re.search(r"```python\n(.*?)```\s+```yaml\n(.*?)```", page, re.S).groups()
    (folder / "package_of_mine").mkdir()
    (folder / "package_of_mine" / "my_backbone.py").write_text(code)
    (folder / "c.yaml").write_text(config.replace("my_package", "package_of_mine"))
    backbone = build_backbone(load_config("c.yaml"))
    assert backbone(torch.zeros(1, 3, 32, 32))["res4"].shape == (1, 96, 2, 2)


def test_a_type_is_checked_as_for_every_key(folder: Path) -> None:
    with pytest.raises(UserError, match="WIDTH"):
        load_config("", ["SSOD.IMPORTS", "['parts_of_mine']", "MODEL.MINE.WIDTH", "wide"])


@pytest.mark.parametrize(
    "source, listed, message",
    [
        ("", "['missing_of_mine']", "there is no module missing_of_mine .*set PYTHONPATH"),
        ("", "['broken_of_mine.py']", "write a module as Python imports it"),
        ("", "['a/broken_of_mine']", "write a module as Python imports it"),
        ("", "[3]", "has 3: write a module"),
        ("", "broken_of_mine", "SSOD.IMPORTS is 'broken_of_mine': write a list"),
        ("", "3", "SSOD.IMPORTS is 3: write a list"),
        ("import nothing_like_it", "['broken_of_mine']", "broken_of_mine needs nothing_like_it"),
        ("1 / 0", "['broken_of_mine']", "cannot be imported .ZeroDivisionError"),
        ("def f(:", "['broken_of_mine']", "cannot be imported .SyntaxError"),
        ("def add_config(cfg): cfg.X.Y = 1", "['broken_of_mine']", "add_config.cfg. fails"),
    ],
)
def test_one_line_for_what_cannot_be_imported(
    folder: Path, source: str, listed: str, message: str
) -> None:
    (folder / "broken_of_mine.py").write_text(source)
    with pytest.raises(UserError, match=message) as caught:
        load_config("", ["SSOD.IMPORTS", listed])
    assert "\n" not in str(caught.value)


def test_a_key_that_no_module_has_added(folder: Path) -> None:
    (folder / "c.yaml").write_text("MODEL: {MINE: {WIDTH: 16}}\n")
    with pytest.raises(
        UserError, match="no key MODEL.MINE.* add_config.cfg. of a module that SSOD.IMPORTS"
    ):
        load_config("c.yaml")


def test_wrong_lists_in_a_file(folder: Path) -> None:
    (folder / "c.yaml").write_text("SSOD: {IMPORTS: 3}\n")
    with pytest.raises(UserError, match="IMPORTS"):
        load_config("c.yaml")
