"""Executes every code block of the README and of the docs. Python and YAML run unchanged. A command
parses its own arguments, and the configs that it names are loaded with the keys that it gives.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List, Tuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from ssod.data.declarations import parse_declaration
from ssod.engine.setup import load_config
from ssod.methods import METHOD_REGISTRY, Method
from ssod.resources import find_config
from ssod.structures import PseudoLabels
from tiny import make_image, tiny_cfg, with_squares

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "datasets/README.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
# Words of commands that stand for the user's own files.
PLACEHOLDERS = re.compile(r"^(\.\.\.|[A-Z]\.yaml|mine\.yaml|photos_ssod/config\.yaml)$")


def blocks(page: str, language: str) -> List[str]:
    """The fenced blocks of a page in a language; "" for none."""
    text = (ROOT / page).read_text()
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.M | re.S)
    return [body for kind, body in found if kind == language]


def all_blocks(language: str) -> List[Tuple[str, str]]:
    return [(page, block) for page in PAGES for block in blocks(page, language)]


def test_every_block_is_of_a_kind_that_is_executed() -> None:
    kinds = set()
    for page in PAGES:
        kinds |= set(re.findall(r"^ *```(\w+)", (ROOT / page).read_text(), re.M))
    assert kinds <= {
        "python",
        "yaml",
        "text",
    }  # "text" is what a command prints, or a tree of folders


# ---------------------------------------------------------------- YAML


@pytest.mark.parametrize("page, block", all_blocks("yaml"))
def test_yaml_loads(page: str, block: str, tmp_path: Path) -> None:
    if "SSOD: {IMPORTS" in block:
        pytest.skip("tests/engine/test_imports.py loads it with its module")
    (tmp_path / "c.yaml").write_text(block.replace('"configs/', f'"{ROOT}/configs/'))
    cfg = load_config(str(tmp_path / "c.yaml"))
    used = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.UNLABELED, *cfg.DATASETS.TEST)
    for name in {*used, *cfg.SSOD.DATASETS}:
        parse_declaration(name, cfg.SSOD.DATASETS[name])


# ---------------------------------------------------------------- commands


class Parsed(BaseException):
    """Thrown when a command has read its arguments, instead of running it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


PREDICT = "projects/ssod/deploy/predict.py"
# Programs that print their words instead of running.
SHELL = """
show() { printf '%s\\037' "$@"; printf '\\036'; }
python() { show python "$@"; }; make() { show make "$@"; }; pip() { show pip "$@"; }
ssod() { show ssod "$@"; }
cd "$(mktemp -d)" || exit 1
"""


def commands(block: str) -> List[List[str]]:
    """The words of each command as a shell sees them, with optional parts taken."""
    block = block.replace(".venv/bin/python", "python").replace("matched|0.5", "matched")
    block = block.replace("[KEY VALUE ...]", "").replace("[B.pth ...]", "B.pth")
    block = re.sub(r"\[(--num-gpus|--jobs) N\]", r"\1 2", block)
    block = re.sub(r"(?<!\w)\[(--[^\[\]]*)\]", r"\1", block)
    done = subprocess.run(
        ["bash", "-e", "-c", SHELL + block], check=True, capture_output=True, text=True
    )
    return [row.split("\037")[:-1] for row in done.stdout.split("\036")[:-1]]


def all_commands() -> List[Any]:
    found = []
    for page, block in all_blocks(""):
        for words in commands(block):
            found.append(pytest.param(words, id=f"{page}: {' '.join(words)[:60]}"))
    return found


@pytest.mark.parametrize("words", all_commands())
def test_command(words: List[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if words[0] == "make":
        if shutil.which("make") is None:
            pytest.skip("no make here")
        subprocess.run(
            [*words[:1], "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True
        )
        return
    if words[:2] == ["pip", "install"]:
        return
    assert words[0] in ("python", "ssod"), words
    words = ["-m", *words] if words[0] == "ssod" else words[1:]
    # The script that an export writes is a copy of this one.
    words = [PREDICT if word == "exported/predict.py" else word for word in words]
    parsed = parse(words, monkeypatch)
    assert parsed is not None
    opts = list(getattr(parsed, "opts", None) or ())
    paths = [getattr(parsed, "config_file", None), getattr(parsed, "compare", None)]
    for path in filter(None, paths):
        check_config(path, [opt for opt in opts if opt != "--"])
    for entry in getattr(parsed, "configs", None) or ():
        name, *changes = entry.split(",")
        pairs = [part for change in changes for part in change.split("=", 1)]
        check_config(name.split("=")[-1], pairs)


def parse(words: List[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The arguments as the program parses them."""

    def stopping(original: Callable[..., argparse.Namespace]) -> Callable[..., Any]:
        def stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
            raise Parsed(original(self, *args, **kwargs))

        return stop

    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(original))
    monkeypatch.chdir(ROOT)
    module = words[0] == "-m"
    program, arguments = (words[1], words[2:]) if module else (words[0], words[1:])
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    try:
        if module:
            runpy.run_module(program, run_name="__main__")
        else:
            runpy.run_path(program, run_name="__main__")
    except Parsed as parsed:
        return parsed.arguments
    return None


def check_config(path: str, opts: List[str]) -> None:
    if not PLACEHOLDERS.match(path):
        path = find_config(path)
        assert (ROOT / path).is_file(), path
        opts = [value for pair in zip(opts[0::2], opts[1::2]) for value in key_of_the_config(pair)]
        load_config(str(ROOT / path), opts)


def key_of_the_config(pair: Tuple[str, str]) -> Tuple[str, ...]:
    """`run_phases` has keys of its own."""
    return pair if "." in pair[0] else ()


# ---------------------------------------------------------------- Python


def test_readme_from_python_in_a_fresh_folder(squares: Path, tmp_path: Path) -> None:
    """A separate program imports Detectron2 before ssod, in a folder that holds nothing but the
    config.
    """
    (code,) = [block for block in blocks("README.md", "python") if "SSODTrainer(cfg)" in block]
    cfg = with_squares(tiny_cfg(), squares, Path("output/mine"))
    cfg.SSOD.IMPORTS = ("tiny",)
    cfg.SSOD.pop("TOY", None)  # another test may have registered it
    cfg.DATASETS.TEST = ("squares_test",)
    (tmp_path / "mine.yaml").write_text(cfg.dump())
    (tmp_path / "program.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True)
    for name in ("teacher_final.pth", "model_final.pth", "results.json", "metrics.json"):
        assert (tmp_path / "output" / "mine" / name).exists()


def test_readme_method() -> None:
    (code,) = [
        block for block in blocks("README.md", "python") if "class ConfidenceWeight" in block
    ]
    registered = dict(METHOD_REGISTRY)
    try:
        scope: Any = {"METHOD_REGISTRY": METHOD_REGISTRY, "Method": Method}
        exec(code, scope)
        assert METHOD_REGISTRY.get("ConfidenceWeight") is scope["ConfidenceWeight"]
    finally:
        METHOD_REGISTRY._obj_map.clear()
        METHOD_REGISTRY._obj_map.update(registered)
    found = Instances((8, 8), pred_boxes=Boxes(torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5]])))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.3]), torch.tensor([0, 1])
    pseudo = scope["ConfidenceWeight"]().refine(PseudoLabels.from_detections([found]), None)
    assert pseudo.instances[0].roi_cls_weight.tolist() == pytest.approx([0.9, 0.3])


def test_ensemble_of_the_multi_phase_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ensemble_boxes")
    (code,) = blocks("docs/multi_phase.md", "python")
    monkeypatch.chdir(tmp_path)
    cfg = tiny_cfg()
    for phase in ("phase_1", "phase_2"):
        Path(phase).mkdir()
        torch.save({"model": build_model(cfg).state_dict()}, f"{phase}/teacher_best.pth")
    cv2.imwrite("image.jpg", make_image(np.random.default_rng(0))[0])
    scope: Any = {"cfg": cfg, "cv2": cv2}
    exec(code, scope)
    assert scope["instances"].has("pred_boxes")


def test_python_blocks_are_all_executed() -> None:
    """Those above, and docs/backbones.md in tests/engine/test_imports.py."""
    pages = [page for page, _ in all_blocks("python")]
    assert pages == ["README.md", "README.md", "docs/backbones.md", "docs/multi_phase.md"]
