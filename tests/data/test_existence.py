"""Missing images are found by listing folders. A few are left out, many are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssod.data.existence import drop_missing, missing_files, missing_images
from ssod.errors import UserError


def rows(folder: Path, count: int) -> list:
    return [{"file_name": str(folder / f"{i:04d}.png")} for i in range(count)]


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows(folder, count):
        Path(row["file_name"]).touch()


def test_folders_are_listed_and_files_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        fill(tmp_path / name, 400)
    listed = []
    monkeypatch.setattr(
        os, "listdir", lambda path, real=os.listdir: listed.append(path) or real(path)
    )
    monkeypatch.setattr(os, "stat", lambda *a, **k: pytest.fail("looked up a file"))
    monkeypatch.setattr(os.path, "exists", lambda path: pytest.fail("looked up a file"))
    paths = [row["file_name"] for name in "abc" for row in rows(tmp_path / name, 400)]
    assert missing_files(paths) == []
    assert sorted(listed) == [str(tmp_path / name) for name in "abc"]


def test_few_missing_images_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, 299)
    wanted = rows(tmp_path, 300)
    assert drop_missing(wanted, "x.json") == wanted[:299]
    assert missing_images("x.json") == [wanted[299]["file_name"]]
    fill(tmp_path, 300)
    assert drop_missing(wanted, "x.json") == wanted and missing_images("x.json") == []


@pytest.mark.parametrize("count", [1, 98, 0])
def test_many_missing_images_are_refused(tmp_path: Path, count: int) -> None:
    fill(tmp_path, count)
    with pytest.raises(UserError, match=f"{count:04d}.png, listed in x.json, does not exist"):
        drop_missing(rows(tmp_path, 100 if count else 1), "x.json")


def test_hints(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.JPG", "b.png"):
        (tmp_path / name).touch()
    for path, hint in (
        ("a.jpg", "the folder holds a.JPG"),
        ("b.jpg", "the folder holds b.png"),
        ("deep/b.png", f"{tmp_path / 'b.png'} does"),
    ):
        with pytest.raises(UserError) as caught:
            drop_missing([{"file_name": str(tmp_path / path)}], "x.json")
        assert hint in str(caught.value)


def test_of_unlabelled_images_a_sample_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1000)
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail("listed a folder"))
    asked = []
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: asked.append(path) or real(path))
    assert len(drop_missing(rows(tmp_path, 1000), "x.json", sample=True)) == 1000
    assert 16 <= len(asked) <= 20


def test_names_with_folders_and_addresses(tmp_path: Path) -> None:
    fill(tmp_path / "a", 2)
    paths = [f"{tmp_path}/a/../a/0000.png", "s3://bucket/x.png", f"{tmp_path}/b/0.png"]
    assert missing_files(paths) == paths[2:]
