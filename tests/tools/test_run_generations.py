"""CReST with the tiny detector: what joins the labelled set, and that it goes on where it
stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import List

import pytest
import torch
from detectron2.structures import Boxes, Instances

from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.phases.generations import chosen_labels, plan_generations
from ssod.pseudo_labels.predictions import Prediction
from ssod.tools import run_generations
from tiny import tiny_cfg, with_squares

pytestmark = pytest.mark.trains


@pytest.fixture
def config(squares: Path, tmp_path: Path) -> Path:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "out", ("DistributionAlignment",))
    cfg.DATASETS.TEST = ("squares_test",)
    cfg.TEST.EVAL_PERIOD = 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 3, 3
    cfg.SSOD.BURN_IN_STEPS, cfg.SSOD.VIS_PERIOD = 1, 0
    cfg.SSOD.DISTRIBUTION_ALIGNMENT.SCORE_THRESHOLD = 0.1
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # so that an untrained detector finds something
    cfg.SSOD.CREST.SCORE_THRESHOLD = 0.0
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    return path


def run(config: Path, *opts: str) -> None:
    run_generations.main(["--config-file", str(config), "--num-gpus", "1", *opts])


def test_each_generation_trains_on_what_the_one_before_added(config: Path, tmp_path: Path) -> None:
    run(config, "GENERATIONS", "2")
    out = tmp_path / "out"
    first, second = (out / f"generation_{index}" for index in range(2))
    labels = json.loads((second / "pseudo_labels.json").read_text())
    assert labels["annotations"] and not (first / "pseudo_labels.json").exists()
    assert sorted(labels["info"]["shares"].values())[-1] == 1.0  # the rarest class
    cfg = load_config(str(second / "generation.yaml"))
    assert cfg.SSOD.DATASETS.crest_labels.ANNOTATIONS == str(second / "pseudo_labels.json")
    configs = [load_config(str(folder / "config.yaml")) for folder in (first, second)]
    assert [c.SSOD.DISTRIBUTION_ALIGNMENT.TEMPERATURE for c in configs] == [1.0, 0.5]
    assert configs[1].DATASETS.TRAIN == ("squares_labeled", "crest_labels")
    # From the start: labelled images that joined are drawn too.
    state = torch.load(second / "model_final.pth", weights_only=True)
    assert state["trainer"]["iteration"] == 2
    sizes = [
        torch.load(folder / "model_final.pth", weights_only=True)["loop"]["sampler"]
        for folder in (first, second)
    ]
    numbers = [state["labeled"]["size"] for state in sizes]
    assert numbers == [8, 8 + len(labels["images"])]
    table = (out / "summary.md").read_text()
    assert f"| 1 | {len(labels['annotations'])} |" in table and "| generation |" in table
    before = (second / "model_final.pth").stat().st_mtime_ns
    run(config, "GENERATIONS", "2")
    assert (second / "model_final.pth").stat().st_mtime_ns == before
    (second / "results.json").unlink()
    with pytest.raises(UserError, match="was begun with another config .SOLVER.BASE_LR"):
        run(config, "GENERATIONS", "2", "SOLVER.BASE_LR", "0.5")


@pytest.mark.parametrize(
    "key, value",
    [("GENERATIONS", 1), ("ALPHA", 0.0), ("SCORE_THRESHOLD", 2.0), ("TEMPERATURE", 2.0)],
)
def test_bad_keys_are_one_line(config: Path, key: str, value: float) -> None:
    cfg = load_config(str(config), [f"SSOD.CREST.{key}", value])  # type: ignore[list-item]
    with pytest.raises(UserError, match=f"SSOD.CREST.{key} is {value}: use") as error:
        plan_generations(cfg)
    assert "\n" not in str(error.value)


def test_chosen_labels_by_hand() -> None:
    def prediction(rows: List[tuple[int, float]]) -> Prediction:
        found = Instances((8, 8))
        found.pred_boxes = Boxes(torch.zeros(len(rows), 4))
        found.pred_classes = torch.tensor([c for c, _ in rows], dtype=torch.int64)
        found.scores = torch.tensor([s for _, s in rows])
        return Prediction(found)

    store = [
        prediction([(0, 0.9), (0, 0.4), (1, 0.6)]),
        Prediction(None, "broken"),
        prediction([(0, 0.8), (1, 0.7)]),
        prediction([]),
    ]
    masks = chosen_labels(store, torch.tensor([0.5, 1.0]), 0.5)  # type: ignore[arg-type]
    # Class 0 has two labels from 0.5 on, of which half stay.
    assert [mask.tolist() for mask in masks] == [[True, False, True], [], [False, True], []]
