"""Every method alone and in pairs, a few steps each; resume for each alone. New methods join by being registered."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Tuple

import pytest
import torch

from runs import METHOD_NAMES, digest, method_cfg, state_of, train
from ssod.engine.trainer import SSODTrainer
from ssod.errors import UserError


@pytest.mark.parametrize(
    "names",
    itertools.chain(
        itertools.combinations(METHOD_NAMES, 1), itertools.combinations(METHOD_NAMES, 2)
    ),
)
def test_methods_train(squares: Path, tmp_path: Path, names: Tuple[str, ...]) -> None:
    cfg = method_cfg(squares, tmp_path / "run", names, 3)
    try:
        trainer = train(cfg)
    except UserError as error:
        assert "cannot be combined" in str(error) and all(name in str(error) for name in names)
        return
    total = trainer.storage.latest()["total_loss"][0]
    assert math.isfinite(total)
    assert trainer.core.last_pseudo is not None
    assert all(torch.isfinite(value).all() for value in state_of(trainer).values())


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method_resumes_to_the_bit(squares: Path, tmp_path: Path, name: str) -> None:
    whole = train(method_cfg(squares, tmp_path / "whole", (name,), 5))
    cfg = method_cfg(squares, tmp_path / "parts", (name,), 5)
    train(cfg)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts: SSODTrainer = train(cfg, resume=True)
    assert parts.start_iter == 2
    assert digest(state_of(whole)) == digest(state_of(parts))
