"""The draw of a share of a folder, and the links that hold it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from ssod.data.folder import FolderSet
from ssod.errors import UserError

SCRIPT = Path(__file__).parents[2] / "datasets" / "link_sample.py"


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("link_sample_under_test", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for index in range(30):
        path = tmp_path / "pool" / f"n{index % 3}" / f"{index}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "pool"


def test_draw_is_a_function_of_seed_and_paths(tool: Any) -> None:
    paths = [f"{i}.png" for i in range(100)]
    fifth = tool.draw(paths, 20, 0)
    assert len(fifth) == 20 and fifth == tool.draw(paths[::-1], 20, 0)
    assert fifth != tool.draw(paths, 20, 1)
    assert set(fifth) < set(tool.draw(paths, 50, 0))
    assert len(tool.draw(paths[:9], 20, 0)) == 1  # rounded down
    assert tool.draw([], 20, 0) == []


def test_links_are_a_folder_dataset(tool: Any, pool: Path, tmp_path: Path) -> None:
    target = tmp_path / "sample"
    for _ in range(2):  # the second time everything is there
        tool.main([str(pool), str(target), "--percent", "20"])
    found = FolderSet("x", str(target)).relative_paths()
    assert found == tool.draw(FolderSet("x", str(pool)).relative_paths(), 20, 0) and len(found) == 6
    assert all((target / name).resolve() == (pool / name).resolve() for name in found)


def test_another_draw_is_not_mixed_in(tool: Any, pool: Path, tmp_path: Path) -> None:
    target = tmp_path / "sample"
    tool.link_sample(pool, target, 20, 0)
    with pytest.raises(UserError, match="does not belong to this draw"):
        tool.link_sample(pool, target, 20, 1)
    os.makedirs(tmp_path / "empty")
    with pytest.raises(SystemExit, match="holds no image files"):
        tool.main([str(tmp_path / "empty"), str(target), "--percent", "20"])
