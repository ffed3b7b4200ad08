"""Masks of pseudo-labels, from the model's predictions to the views that train on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from ssod.data.catalog import load_unlabeled
from ssod.data.mapper import TwoViewMapper
from ssod.data.masks import RleMasks, decode_mask
from ssod.errors import UserError
from ssod.pseudo_labels import ensemble, predictions
from ssod.pseudo_labels.intersection import intersect_pseudo_labels
from ssod.pseudo_labels.predictions import Prediction, PredictionStore
from ssod.structures import SampleRef
from ssod.tools import pseudo_label
from tiny import SIZE, tiny_cfg, with_squares


def ramp(size: int, kept: int) -> np.ndarray:
    """The pixels below a diagonal of the box (4, 4, 24, 24); none for `kept` 0."""
    mask = np.zeros((size, size), dtype=bool)
    rows, columns = np.mgrid[4:24, 4:24]
    mask[4:24, 4:24] = (columns - rows) < kept - 20 if kept else False
    return mask


class Masked(nn.Module):
    """Finds a red box with a mask, and a green one whose mask is empty."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        found = Instances((SIZE, SIZE))
        found.pred_boxes = Boxes(torch.tensor([[4.0, 4, 24, 24], [30, 30, 40, 50]]) + self.shift)
        found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
        found.pred_masks = torch.from_numpy(np.stack([ramp(SIZE, 20), ramp(SIZE, 0)]))
        return [{"instances": found}]


@pytest.fixture
def config(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cfg = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    cfg.MODEL.MASK_ON = True
    labeled = json.loads((squares / "labeled.json").read_text())
    for a in labeled["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / "labeled.json").write_text(json.dumps(labeled))
    cfg.SSOD.DATASETS.squares_labeled.ANNOTATIONS = str(tmp_path / "labeled.json")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    fakes = {"a.pth": Masked(), "b.pth": Masked(shift=2.0)}
    for name in fakes:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(
        predictions, "load_detector", lambda cfg, path, role: fakes[Path(path).name]
    )
    return tmp_path / "config.yaml"


def run(config: Path, *arguments: str, weights: str = "a") -> Dict[str, Any]:
    files = [str(config.parent / f"{name}.pth") for name in weights]
    output = str(config.parent / "labels.json")
    command = ["--config-file", str(config), "--weights", *files, "--output", output]
    pseudo_label.main([*command, "--thresholds", "0.5", *arguments])
    return json.loads(Path(output).read_text())


def test_masks_are_written_and_trained_on(config: Path, squares: Path) -> None:
    for weights in ("a", "ba"):  # the newest model's masks, where several agree
        found = run(config, weights=weights)
        assert len(found["annotations"]) == 12  # the label without a pixel is left out
        first = found["annotations"][0]
        mask = decode_mask({**first["segmentation"], "counts": first["segmentation"]["counts"]})
        assert (mask == ramp(SIZE, 20)).all() and first["area"] == int(mask.sum())
    cfg = with_squares(tiny_cfg(), squares, config.parent / "run", ("ScoreThreshold",))
    cfg.MODEL.MASK_ON = True
    cfg.SSOD.PSEUDO_LABELS = str(config.parent / "labels.json")
    records = load_unlabeled(cfg)
    mapper = TwoViewMapper.from_config(cfg, seed=0)
    mirrored = set()
    for position in range(8):
        stored = mapper(records[0], SampleRef("unlabeled", position, 0)).stored
        assert stored is not None
        seen = stored.pred_masks[0].numpy()
        flipped = stored.pred_boxes.tensor[0, 0] != 4
        assert (seen == (ramp(SIZE, 20)[:, ::-1] if flipped else ramp(SIZE, 20))).all()
        mirrored.add(bool(flipped))
    assert len(mirrored) == 2


def test_fusion_says_that_it_has_no_masks(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ensemble_boxes")
    with pytest.raises(UserError, match="fused merges boxes and makes no masks"):
        run(config, "--combine", "fused", weights="ab")
    monkeypatch.setattr(ensemble, "load_detector", lambda cfg, path, role: Masked())
    said: List[str] = []
    monkeypatch.setattr(ensemble.logger, "warning", said.append)
    cfg = tiny_cfg()
    cfg.MODEL.MASK_ON = True
    ensemble.load_ensemble(cfg, ["a"])
    assert said == ["Weighted boxes fusion merges boxes only: the ensemble predicts no masks."]


def test_the_store_keeps_masks_by_image(tmp_path: Path) -> None:
    rows = []
    for number in (2, 0, 1):
        found = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.zeros(number, 4)))
        found.scores, found.pred_classes = torch.ones(number), torch.zeros(number).long()
        masks = [ramp(SIZE, 10 + number + i) for i in range(number)]
        found.pred_masks = RleMasks.encode(
            torch.from_numpy(np.array(masks).reshape(-1, SIZE, SIZE))
        )
        rows.append(Prediction(found))
    rows.insert(1, Prediction(None, "broken"))
    store = PredictionStore(str(tmp_path), 4)
    store.write(0, rows)
    again = [row.found for row in store]
    assert again[1] is None
    for old, new in zip(rows, again):
        if old.found is not None and new is not None:
            assert [m.sum() for m in new.pred_masks] == [m.sum() for m in old.found.pred_masks]
    last = again[3]
    assert last is not None and (list(last.pred_masks)[0] == ramp(SIZE, 11)).all()


def test_masks_in_memory_are_indexed_like_other_columns() -> None:
    masks = RleMasks.encode(torch.from_numpy(np.stack([ramp(SIZE, k) for k in (5, 10, 20)])))
    sums = [int(m.sum()) for m in masks]
    found = Instances((SIZE, SIZE), pred_masks=masks, scores=torch.tensor([0.1, 0.9, 0.5]))
    assert [int(m.sum()) for m in found[found.scores > 0.3].pred_masks] == sums[1:]
    assert [int(m.sum()) for m in masks[torch.tensor([2, 0])]] == [sums[2], sums[0]]
    assert [int(m.sum()) for m in masks[1:]] == sums[1:] and len(masks[:0]) == 0
    plain = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.zeros(0, 4)))
    plain.scores, plain.pred_classes = torch.zeros(0), torch.zeros(0).long()
    assert not intersect_pseudo_labels([plain]).has("pred_masks")
