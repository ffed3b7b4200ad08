"""SOLVER.AMP: what "auto" stands for."""

from __future__ import annotations

from typing import Optional

import pytest
import torch

from ssod.engine import precision
from ssod.engine.precision import amp_dtype, autocast
from ssod.errors import UserError
from tiny import tiny_cfg


@pytest.mark.parametrize("has, expected", [(True, torch.bfloat16), (False, None)])
def test_auto_on_a_cpu(
    has: bool, expected: Optional[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    cfg = tiny_cfg()
    cfg.SOLVER.AMP.DTYPE = "auto"
    assert amp_dtype(cfg) is None  # not enabled
    cfg.SOLVER.AMP.ENABLED = True
    assert amp_dtype(cfg) is expected
    context, scaled = autocast(cfg)
    assert not scaled
    with context():
        assert torch.is_autocast_enabled("cpu") == has


@pytest.mark.parametrize(
    "capability, expected", [((9, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
def test_auto_on_a_gpu(capability, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    cfg = tiny_cfg()
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "auto"])
    cfg.MODEL.DEVICE = "cuda"
    assert amp_dtype(cfg) is expected
    assert autocast(cfg)[1] == (expected == torch.float16)


def test_types_by_name() -> None:
    cfg = tiny_cfg()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    assert amp_dtype(cfg) is torch.bfloat16
    cfg.SOLVER.AMP.DTYPE = "int8"
    with pytest.raises(UserError, match="SOLVER.AMP.DTYPE is 'int8': use 'auto'"):
        amp_dtype(cfg)
