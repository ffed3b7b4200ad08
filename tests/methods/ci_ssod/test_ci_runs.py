"""GbR, GbT and CrS in whole runs: resuming, reports, labelled images alone."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, List

import cv2
import numpy as np
import pytest

from ci_steps import CRS, GBR, GBT
from runs import digest, method_cfg, state_of, train
from ssod.data.catalog import load_labeled
from ssod.data.loader import build_train_loader
from ssod.methods.ci_ssod import (
    ClassRebalancingSampling,
    GradientReweighting,
    GradientThresholding,
)
from tiny import tiny_cfg


def run_cfg(squares: Path, output: Path, names: tuple[str, ...], steps: int) -> Any:
    cfg = method_cfg(squares, output, names, steps)
    cfg.merge_from_list(
        [
            *("SSOD.GRADIENT_THRESHOLDING.LOW", 0.05, "SSOD.GRADIENT_THRESHOLDING.BASE", 0.2),
            *("SSOD.CLASS_REBALANCING_SAMPLING.GENERATIONS", 3, "TEST.EVAL_PERIOD", 2),
            *("SSOD.CLASS_REBALANCING_SAMPLING.GAMMA", 900.0, "SOLVER.CHECKPOINT_PERIOD", 2),
        ]
    )
    return cfg


def factor_sources(trainer: Any) -> set[tuple[str, int]]:
    """(method, snapshot id) in effect at any step of the run."""
    return {pair for step in range(trainer.max_iter) for pair in trainer.board.in_effect(step)}


@pytest.mark.trains
def test_all_three_resume_in_the_middle_of_a_generation(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (GBR, GBT, CRS)
    built: List[Any] = []

    def build_loader(*args: Any, **keywords: Any) -> Any:
        built.append(build_train_loader(*args, **keywords))
        return built[-1]

    monkeypatch.setattr("ssod.engine.trainer.build_train_loader", build_loader)
    whole = train(run_cfg(squares, tmp_path / "whole", names, 10))
    assert len(built) == 1 and len({id for _, id in factor_sources(whole)}) > 1
    assert whole.core.methods[CRS].begins == {1: 0, 4: 1, 7: 2}
    cfg = run_cfg(squares, tmp_path / "parts", names, 10)
    train(cfg)
    for index in (
        5,
        7,
    ):  # in the middle of generation 1, and where the last snapshot is not in effect yet
        (tmp_path / "parts" / "last_checkpoint").write_text(f"model_{index:07d}.pth")
        parts = train(cfg, resume=True)
        assert parts.start_iter == index + 1
        assert digest(state_of(whole)) == digest(state_of(parts))
    factors = whole.board.load(CRS, whole.board.in_effect(10)[0][1])["repeat_factors_unlabeled"]
    assert factors.max() > 1


@pytest.mark.trains
def test_report_sections_of_a_run(squares: Path, tmp_path: Path) -> None:
    from ssod.plotting.run_data import load_runs

    names = (GBR, GBT, CRS)
    train(run_cfg(squares, tmp_path / "run", names, 4))
    (run,) = load_runs([str(tmp_path / "run")])
    for name, words in (
        (GBR, "Gradient matrix, step 4"),
        (GBT, "Thresholds of the classes"),
        (CRS, "Mean repeat factor"),
    ):
        section = (
            {GBR: GradientReweighting, GBT: GradientThresholding}
            .get(name, ClassRebalancingSampling)
            .report_section(run)
        )
        assert section is not None and words in section.html
        assert "nan" not in section.html.split("base64")[0]
    weights = run.series(f"{GBR}/weight/red")
    assert [step for step, _ in weights][-1] == 4
    file = tmp_path / "run" / "ci_ssod" / f"{GBR}_step_2.npz"
    for part in (b"no archive", file.read_bytes()[:100], b""):
        file.write_bytes(part)
        section = GradientReweighting.report_section(run)
        assert section is not None and "step 2" not in section.html


@pytest.mark.trains
def test_labelled_images_alone(squares: Path, tmp_path: Path) -> None:
    """Reweighting and repeat factors work in a supervised run."""
    cfg = run_cfg(squares, tmp_path / "run", (GBR, "RepeatFactorSampling"), 3)
    cfg.SSOD.METHODS = (GBR, "RepeatFactorSampling")  # no selector of pseudo-labels
    cfg.DATASETS.UNLABELED = ()
    trainer = train(cfg)
    assert (trainer.core.methods[GBR].balance.weights != 1).any()
    factors = trainer.board.load("RepeatFactorSampling", 0)["repeat_factors_labeled"]
    assert len(factors) == len(load_labeled(cfg)) and factors.min() >= 1


def test_scaling_to_more_processes() -> None:
    from ssod.engine.solver import scale_config

    cfg = tiny_cfg()
    for methods in ((GBT,), (GBR, GBT)):
        cfg.SSOD.METHODS = methods
        cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
        cfg.SOLVER.IMS_PER_BATCH = cfg.SSOD.IMS_PER_BATCH_UNLABELED = 8
        scaled = scale_config(cfg, 4).SSOD
        assert scaled.GRADIENT_REWEIGHTING.WARMUP_STEPS == 16000
        assert scaled.GRADIENT_REWEIGHTING.EMA_DECAY == pytest.approx(0.9995**0.5)
        assert scaled.GRADIENT_REWEIGHTING.LR == pytest.approx(0.005)
        assert scaled.GRADIENT_THRESHOLDING.EMA_DECAY == pytest.approx(0.9995**0.5)


def picture_of(matrix: np.ndarray) -> np.ndarray:
    from ssod.methods.ci_ssod.report import heat_map

    kind, _, data = heat_map(matrix).partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def test_heat_map() -> None:
    assert (picture_of(np.zeros((4, 4))) == 255).all()
    picture = picture_of(np.array([[-1.0, 0.1], [1e-6, -0.01]]))
    side = len(picture) // 2
    colours = picture[::side, ::side].astype(int)  # BGR
    assert colours[0, 0].tolist() == [178, 114, 0]  # the largest pushes the logit up
    assert colours[0, 1].argmax() == 2 and colours[1, 1].argmin() == 2
    assert colours[1, 0].tolist() == [255] * 3  # more than three decades smaller


def test_heat_map_of_many_classes_keeps_the_strongest() -> None:
    picture = picture_of(np.diag(np.r_[np.full(1203, -1.0), -1e-2]))
    assert 200 <= len(picture) <= 280
    assert (picture[np.arange(241), np.arange(241)] != 255).any(axis=1).all()
    assert (picture[0, 1:] == 255).all()
