"""The choices for data and machine, by hand-computed sizes, and the YAML that results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from ssod.engine.setup import load_config
from ssod.own_data.choices import Choice, render
from ssod.own_data.machine import Machine
from ssod.own_data.recipe import Data, anchor_sizes, aspect_ratios, choose, shorter_side, steps

CPU = Machine(gpus=0, memory=8, cores=2, has_pretrained=True)
GPU = Machine(gpus=2, memory=24, cores=8, bfloat16=True, has_pretrained=True)


def data(size: float = 0.3, native: int = 480, **more: object) -> Data:
    """Boxes that are all `size` of the shorter side."""
    known = {"classes": 3, "labelled": 40, "unlabelled": 300, "aspects": np.ones(50)}
    sizes = np.tile([native, native * 2], (10, 1))
    return Data(**{**known, **more}, relative_sizes=np.full(50, size), image_sizes=sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size, native, machine, expected",
    [
        (0.3, 480, CPU, 128),  # large boxes: 12 / 0.3 = 40 pixels would do
        (0.05, 480, CPU, 256),  # 12 / 0.05 = 240, in steps of 32: 256
        (0.01, 480, CPU, 320),  # no more on a CPU
        (0.05, 160, CPU, 160),  # no more than the images have
        (0.05, 64, CPU, 128),  # tiny images are enlarged
        (0.3, 480, GPU, 320),
        (0.05, 600, GPU, 480),  # 24 / 0.05
        (0.01, 3000, GPU, 800),
    ],
)
def test_shorter_side(size: float, native: int, machine: Machine, expected: int) -> None:
    assert shorter_side(data(size, native), machine) == expected


def test_anchors() -> None:
    assert anchor_sizes(data(0.26), 128) == [[16], [32], [64], [128], [256]]  # 33 / 1.5 = 22
    assert anchor_sizes(data(0.02), 128)[0] == [8]
    assert anchor_sizes(data(0.9), 800)[0] == [32]
    assert aspect_ratios(data()) == [0.5, 1.0, 2.0]
    long = np.array([1.0] * 44 + [4.0] * 3 + [0.25] * 3)
    assert aspect_ratios(data(aspects=long)) == [0.2, 0.5, 1.0, 2.0, 5.0]


def test_steps() -> None:
    assert steps(data(), CPU) == 400
    assert steps(data(labelled=100), CPU) == 800
    assert steps(data(labelled=5000), CPU) == 1600
    assert steps(data(), GPU) == 3000
    assert steps(data(labelled=10**6), GPU) == 12000


@pytest.mark.parametrize("machine", [CPU, GPU, Machine(1, 8, 4), Machine(0, 8, 1)], ids=str)
@pytest.mark.parametrize("unlabelled", [0, 300])
def test_config_loads(machine: Machine, unlabelled: int, tmp_path: Path) -> None:
    chosen = choose(data(unlabelled=unlabelled), machine)
    text = render(["a title"], chosen)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    cfg = load_config(str(path))
    keys = [choice.key for choice in chosen]
    assert len(set(keys)) == len(keys)
    assert cfg.MODEL.DEVICE == ("cuda" if machine.gpus else "cpu")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert bool(cfg.SOLVER.AMP.ENABLED) == bool(machine.gpus)
    assert cfg.MODEL.BACKBONE.NAME == (
        "build_timm_fpn_backbone" if machine.has_pretrained else "build_resnet_fpn_backbone"
    )
    assert cfg.SSOD.BURN_IN_STEPS < cfg.SOLVER.MAX_ITER
    assert tuple(cfg.SSOD.METHODS) == (
        ("ScoreThreshold", "CropBank", "SoftDistillation") if unlabelled else ("CropBank",)
    )
    assert all(len(line) <= 100 for line in text.splitlines() if line.lstrip().startswith("#"))


def test_weights_of_the_user() -> None:
    chosen = {choice.key: choice.value for choice in choose(data(), CPU, weights="mine.pkl")}
    assert chosen["MODEL.WEIGHTS"] == "mine.pkl"
    assert chosen["MODEL.BACKBONE.NAME"] == "build_resnet_fpn_backbone"


def test_render() -> None:
    choices = [
        Choice("A.B", [1, 2], "why " * 40),
        Choice("C", 'quote " and : colon # hash'),
        Choice("A.D.E", {"X": "y: z", "F": True}),
        Choice("A.EMPTY", ""),
    ]
    text = render(["title"], choices)
    assert yaml.safe_load(text) == {
        "A": {"B": [1, 2], "D": {"E": {"X": "y: z", "F": True}}, "EMPTY": ""},
        "C": 'quote " and : colon # hash',
    }
    assert text.startswith("# title\nA:\n  # why why")
