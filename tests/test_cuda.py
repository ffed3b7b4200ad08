"""Tests that need a GPU. They are skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
import torch

from families import TINY
from runs import METHOD_NAMES, method_cfg, state_of, train
from tiny import tiny_cfg, with_squares

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def losses_of(cfg: Any) -> List[Dict[str, float]]:
    """The losses of each step of a run."""
    history = train(cfg).storage.histories()
    names = [name for name in history if name.startswith("loss_") and name != "loss_scale"]
    steps = sorted({step for name in names for _, step in history[name].values()})
    return [
        {name: v for name in names for v, at in history[name].values() if at == step}
        for step in steps
    ]


@pytest.fixture
def same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers for the GPU are drawn on the CPU, so that a run there samples what a run here
    does.
    """

    def on_cpu(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*args: Any, device: Any = None, generator: Any = None, **kwargs: Any) -> Any:
            if generator is not None:
                return draw(*args, device=device, generator=generator, **kwargs)
            return draw(*args, **kwargs).to(device or "cpu")

        return drawn

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for name in ("randperm", "rand", "randn", "randint", "normal"):
        monkeypatch.setattr(torch, name, on_cpu(getattr(torch, name)))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method_on_the_gpu_equals_the_cpu(
    squares: Path, tmp_path: Path, name: str, same_random_numbers: None
) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        cfg = method_cfg(squares, tmp_path / device, (name,), 3)
        cfg.MODEL.DEVICE = device
        found[device] = losses_of(cfg)
    assert len(found["cpu"]) == 3
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-3, abs=1e-4)
    # Mutual learning follows. Sums in another order change the last digits, and these may change
    # which boxes pass a threshold, so single losses may differ; what they add up to must not.
    for here, there in zip(found["cpu"], found["cuda"]):
        assert set(here) == set(there)
        assert sum(there.values()) == pytest.approx(sum(here.values()), rel=0.1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method_trains_in_half_precision(
    squares: Path, tmp_path: Path, name: str, dtype: str
) -> None:
    cfg = method_cfg(squares, tmp_path / "run", (name,), 3)
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True])
    cfg.SOLVER.AMP.DTYPE = dtype
    assert all(torch.isfinite(value).all() for value in state_of(train(cfg)).values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", TINY)
def test_family_trains(squares: Path, tmp_path: Path, family: str, dtype: str) -> None:
    if "DETR" in family:
        pytest.importorskip("transformers")
    methods = ("ScoreThreshold", "PseudoBoxRegression")
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", methods)
    cfg.merge_from_list([*TINY[family], "MODEL.DEVICE", "cuda", "MODEL.MASK_ON", False])
    cfg.merge_from_list(["SSOD.SCORE_THRESHOLD", 0.002, "SSOD.PSEUDO_SCORE_FLOOR", 0.0005])
    if dtype != "float32":
        cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype])
    assert all(torch.isfinite(value).all() for value in state_of(train(cfg)).values())


@pytest.mark.parametrize("norm", ["GN", "BN", "FrozenBN"])
def test_trains_and_evaluates(squares: Path, tmp_path: Path, norm: str) -> None:
    cfg = with_squares(tiny_cfg(norm), squares, tmp_path / "run", ("Toy", "PseudoBoxRegression"))
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "SSOD.VIS_PERIOD", 2])
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.001, "DATALOADER.NUM_WORKERS", 2])
    state = state_of(train(cfg))
    assert all(value.is_cuda and torch.isfinite(value).all() for value in state.values())


def test_resumes(squares: Path, tmp_path: Path) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("Toy",))
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "SOLVER.CHECKPOINT_PERIOD", 3])
    train(cfg)
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000002.pth")
    assert train(cfg, resume=True).start_iter == 3
