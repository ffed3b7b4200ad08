"""A recipe on squares whose truth is declared, and the oracle for the time of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from detectron2.config import CfgNode

from ssod.diagnosis.oracle import register_oracle
from ssod.methods import METHOD_REGISTRY
from tiny import tiny_cfg, with_squares


@pytest.fixture
def oracle() -> Iterator[None]:
    register_oracle()
    yield
    METHOD_REGISTRY._obj_map.pop("OracleLabels")


@pytest.fixture
def recipe(oracle: None, squares: Path, tmp_path: Path) -> CfgNode:
    """ScoreThreshold and CropBank."""
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold", "CropBank"))
    cfg.SSOD.DATASETS["squares_unlabeled"].TRUTH = str(squares / "unlabeled.json")
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.SSOD.SCORE_THRESHOLD = 0.1
    cfg.SSOD.CROP_BANK.PASTE_ON = ("labeled", "unlabeled")
    return cfg
