"""Every method alone and in pairs, a few steps each; resume for each alone. New methods join by being registered."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Tuple

import pytest
import torch

from runs import digest, state_of, train
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY, build_methods
from tiny import tiny_cfg, with_squares

build_methods(tiny_cfg())  # registers all
NAMES = sorted(name for name, _ in METHOD_REGISTRY)


def with_selector(names: Tuple[str, ...]) -> Tuple[str, ...]:
    """Adds the fixed threshold where nothing chooses pseudo-labels, and what a method requires."""
    for name in names:
        names += tuple(r for r in METHOD_REGISTRY.get(name).requires if r not in names)
    if any(METHOD_REGISTRY.get(name).selects_pseudo_labels for name in names):
        return names
    return ("ScoreThreshold", *names)


def config(squares: Path, output: Path, names: Tuple[str, ...], steps: int):
    cfg = with_squares(tiny_cfg(), squares, output, with_selector(names))
    cfg.merge_from_list(
        ["SOLVER.MAX_ITER", steps, "SSOD.BURN_IN_STEPS", 1, "SSOD.SCORE_THRESHOLD", 0.05]
    )
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "SSOD.SNAPSHOT_DELAY", 2])
    return cfg


@pytest.mark.parametrize(
    "names", itertools.chain(itertools.combinations(NAMES, 1), itertools.combinations(NAMES, 2))
)
def test_methods_train(squares: Path, tmp_path: Path, names: Tuple[str, ...]) -> None:
    cfg = config(squares, tmp_path / "run", names, 3)
    try:
        trainer = train(cfg)
    except UserError as error:
        assert "cannot be combined" in str(error) and all(name in str(error) for name in names)
        return
    total = trainer.storage.latest()["total_loss"][0]
    assert math.isfinite(total)
    assert trainer.core.last_pseudo is not None
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())


@pytest.mark.parametrize("name", NAMES)
def test_method_resumes_to_the_bit(squares: Path, tmp_path: Path, name: str) -> None:
    whole = train(config(squares, tmp_path / "whole", (name,), 5))
    cfg = config(squares, tmp_path / "parts", (name,), 5)
    train(cfg)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts: SSODTrainer = train(cfg, resume=True)
    assert parts.start_iter == 2
    assert digest(state_of(whole)) == digest(state_of(parts))
