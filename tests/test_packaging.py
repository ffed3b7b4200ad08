"""The wheel: it holds the configs, works outside of the repository, and leaves the user's PyTorch
and Detectron2 alone.
"""

from __future__ import annotations

import configparser
import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import List

import pytest

from ssod import __version__

ROOT = Path(__file__).parent.parent
FOLDERS = ("projects", "configs", "datasets", "docs", "requirements", "tests")
# Packages that a user has already. ssod must not choose their versions.
OF_THE_USER = ("torch", "torchvision", "detectron2", "pb1-detectron2", "opencv", "nvidia", "triton")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of sdist and wheel, built from a copy of the repository."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.png", "*.jpg")
    for name in FOLDERS:
        if name == "datasets":  # without the data
            (tree / name).mkdir()
            for path in (p for p in (ROOT / name).iterdir() if p.is_file()):
                shutil.copy(path, tree / name)
        else:
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for path in (p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"):
        shutil.copy(path, tree)
    output = tree / "dist"
    code = (
        "from setuptools import build_meta as b\n"
        f"b.build_sdist({str(output)!r}); b.build_wheel({str(output)!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    return output


def wheel_of(folder: Path) -> Path:
    (path,) = folder.glob(f"ssod-{__version__}-py3-none-any.whl")
    return path


def requirements(wheel: Path) -> List[str]:
    """Requires-Dist of the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"ssod-{__version__}.dist-info/METADATA").decode()
    return email.message_from_string(text).get_all("Requires-Dist") or []


def test_wheel_holds_configs_and_drawing_script(built: Path) -> None:
    names = set(zipfile.ZipFile(wheel_of(built)).namelist())
    for path in ROOT.glob("configs/**/*.yaml"):
        assert f"ssod/_resources/{path.relative_to(ROOT).as_posix()}" in names
    assert "ssod/_resources/datasets/digit_scenes.py" in names
    assert "ssod/_resources/datasets/digit_drawing.py" in names
    assert "ssod/_resources/datasets/digit_scenes.sha256" in names
    for folder in ("plotting", "report"):
        for path in (ROOT / "projects" / "ssod" / folder / "templates").iterdir():
            assert f"ssod/{folder}/templates/{path.name}" in names
    assert {name.split("/")[0] for name in names} == {"ssod", f"ssod-{__version__}.dist-info"}


def test_sdist_holds_what_builds_and_tests_it(built: Path) -> None:
    (path,) = built.glob("ssod-*.tar.gz")
    names = {name.split("/", 1)[-1] for name in tarfile.open(path).getnames()}
    for name in (
        *("setup.py", "setup.cfg", "pyproject.toml", "train_net.py", "Makefile", "LICENSE"),
        *("CHANGELOG.md", "configs/digit_scenes/best.yaml", "datasets/digit_scenes.py"),
        "datasets/digit_drawing.py",
        *("projects/ssod/cli/main.py", "tests/test_packaging.py", "docs/own_data.md"),
    ):
        assert name in names, name
    assert not any(name.startswith("datasets/digit_scenes/") for name in names)


def test_nothing_of_the_users_is_required(built: Path) -> None:
    found = requirements(wheel_of(built))
    assert any(line.startswith("tqdm") for line in found)
    for line in (line for line in found if "extra ==" not in line):
        name = re.split(r"[^A-Za-z0-9-]", line)[0].lower()
        assert not name.startswith(OF_THE_USER), line
        assert "==" not in line and "<" not in line, f"{line} is a pin"
    for line in found:
        assert re.split(r"[^A-Za-z0-9-]", line)[0].lower() not in OF_THE_USER[:4], line


def test_extras(built: Path) -> None:
    text = "\n".join(requirements(wheel_of(built)))
    for extra in ("timm", "transformers", "export", "trackers", "docs"):
        assert f'extra == "{extra}"' in text


def test_command_is_installed(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        text = archive.read(f"ssod-{__version__}.dist-info/entry_points.txt").decode()
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert dict(parser["console_scripts"]) == {"ssod": "ssod.cli.main:main"}


def test_pip_would_install_ssod_alone(built: Path, tmp_path: Path) -> None:
    """Into this environment, with its own PyTorch and Detectron2."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip here")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--report"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [*command, str(report), str(wheel_of(built))],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    installed = [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]
    assert installed == ["ssod"]


def test_works_outside_of_the_repository(built: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    zipfile.ZipFile(wheel_of(built)).extractall(site)
    (site / "sitecustomize.py").write_text("import torch; torch.set_num_threads(1)")
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "ssod", *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    where = run("configs", "digit_scenes/best.yaml", "--where").stdout.split()
    assert where[0] == "digit_scenes/best.yaml" and Path(where[1]).is_relative_to(site)
    drawn = run("digit-scenes", "--labeled", "4", "--unlabeled", "4")
    assert drawn.returncode == 0 and (folder / "datasets/digit_scenes/labeled.json").exists()
    (folder / "mine.yaml").write_text("_BASE_: digit_scenes/supervised.yaml\nOUTPUT_DIR: run\n")
    short = ("SOLVER.MAX_ITER", "1", "SSOD.BURN_IN_STEPS", "0", "DATASETS.VAL", "()")
    short += ("DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2")
    done = run("train", "--config-file", "mine.yaml", *short)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "teacher_final.pth").exists()
