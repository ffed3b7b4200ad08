"""Weighted boxes fusion of several models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from ssod.errors import UserError
from ssod.pseudo_labels.ensemble import EnsemblePredictor, fuse_predictions, load_ensemble
from ssod.tools import ensemble, run_phases
from tiny import tiny_cfg, with_squares


def found(rows: List[List[float]]) -> Instances:
    """Rows of x0, y0, x1, y1, score, class, on an image of 50 x 100 (height x width)."""
    table = torch.tensor(rows).reshape(-1, 6)
    instances = Instances((50, 100))
    instances.pred_boxes, instances.scores = Boxes(table[:, :4]), table[:, 4]
    instances.pred_classes = table[:, 5].long()
    return instances


def test_fusion_by_hand() -> None:
    first = found([[10, 10, 30, 30, 0.9, 0], [60, 10, 80, 30, 0.6, 1]])
    second = found([[12, 10, 32, 30, 0.3, 0], [60, 10, 80, 30, 0.5, 2]])
    fused = fuse_predictions([first, second], 0.55)
    # Class 0: found by both, box weighted 3 : 1, score (0.9 + 0.3) / 2. The others by one of two:
    # half their score.
    assert fused.pred_classes.tolist() == [0, 1, 2]
    assert fused.scores.tolist() == pytest.approx([0.6, 0.3, 0.25])
    assert fused.pred_boxes.tensor[0].tolist() == pytest.approx([10.5, 10, 30.5, 30], abs=1e-4)
    assert fused.pred_boxes.tensor[1].tolist() == pytest.approx([60, 10, 80, 30], abs=1e-4)
    assert fused.image_size == (50, 100)


def test_nothing_found() -> None:
    fused = fuse_predictions([found([]), found([])], 0.55)
    assert len(fused) == 0 and fused.pred_boxes.tensor.shape == (0, 4)
    assert len(fuse_predictions([found([]), found([[1, 1, 9, 9, 0.8, 0]])], 0.55)) == 1


@pytest.fixture
def weights(tmp_path: Path) -> List[str]:
    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        paths.append(str(tmp_path / f"{seed}.pth"))
        torch.save({"model": build_model(tiny_cfg()).state_dict()}, paths[-1])
    return paths


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_predictor_fuses_what_default_predictors_find(
    weights: List[str], image_format: str
) -> None:
    cfg = tiny_cfg()
    cfg.INPUT.FORMAT = image_format
    image = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    singles = []
    for path in weights:
        one = cfg.clone()
        one.MODEL.WEIGHTS = path
        singles.append(DefaultPredictor(one)(image)["instances"])
    expected = fuse_predictions(singles, 0.55)
    result = EnsemblePredictor(cfg, weights)(image)["instances"]
    assert len(result) > 0
    assert torch.equal(result.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(result.scores, expected.scores)


def test_command(squares: Path, tmp_path: Path, weights: List[str], capsys) -> None:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run")
    cfg.DATASETS.TEST = ("squares_test",)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    ensemble.main(["--config-file", str(path), "--weights", *weights])
    assert "squares_test bbox: AP " in capsys.readouterr().out
    record = json.loads((tmp_path / "run/inference/ensemble/ensemble.json").read_text())
    assert record["weights"] == weights and "AP" in record["results"]["squares_test"]["bbox"]
    with pytest.raises(UserError, match="DATASETS.TEST is empty"):
        ensemble.main(
            [
                "--config-file",
                str(path),
                "--weights",
                *weights,
                "--dist-url=auto",
                "DATASETS.TEST",
                "()",
            ]
        )


def test_missing_package_is_one_line(
    squares: Path, tmp_path: Path, weights: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssod.pseudo_labels.ensemble.find_spec", lambda name: None)
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    for command in (
        lambda: fuse_predictions([found([]), found([])], 0.55),
        lambda: EnsemblePredictor(cfg, weights),
        lambda: run_phases.main(["--config-file", str(path)]),
    ):
        with pytest.raises(UserError, match="pip install ensemble-boxes"):
            command()
    assert not (tmp_path / "run").exists()  # before any training


def test_no_weights() -> None:
    with pytest.raises(UserError, match="at least one"):
        load_ensemble(tiny_cfg(), [])
