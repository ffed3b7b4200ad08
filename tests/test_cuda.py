"""What only a GPU can show; skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from runs import state_of, train
from tiny import tiny_cfg, with_squares

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("amp", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("norm", ["GN", "BN", "FrozenBN"])
def test_trains_and_evaluates(squares: Path, tmp_path: Path, amp: Any, norm: str) -> None:
    cfg = with_squares(tiny_cfg(norm), squares, tmp_path / "run", ("Toy", "PseudoBoxRegression"))
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", amp is not None, "SSOD.VIS_PERIOD", 2]
    )
    cfg.SOLVER.AMP.DTYPE = amp or "float16"
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.001, "DATALOADER.NUM_WORKERS", 2])
    state = state_of(train(cfg))
    assert all(value.is_cuda and torch.isfinite(value).all() for value in state.values())


def test_resumes(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("Toy",))
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "SOLVER.CHECKPOINT_PERIOD", 3])
    train(cfg)
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000002.pth")
    assert train(cfg, resume=True).start_iter == 3
