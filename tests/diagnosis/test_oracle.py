"""The oracle in training: true labels reach the losses, and nobody gets it without asking."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from runs import train
from ssod.errors import UserError
from ssod.methods import build_methods


def with_oracle(cfg: CfgNode, kind: str) -> CfgNode:
    cfg.SSOD.METHODS = (*cfg.SSOD.METHODS, "OracleLabels")
    cfg.SSOD.ORACLE_LABELS.SUBSTITUTION = kind
    return cfg


def test_true_labels_reach_the_losses(recipe: CfgNode, squares: Path) -> None:
    trainer = train(with_oracle(recipe, "true_labels"))
    core = trainer.core
    truth = json.loads((squares / "unlabeled.json").read_text())
    assert core.last_pseudo is not None
    for row, sample in zip(core.last_pseudo.instances, core.last_batch.unlabeled):
        own = [a for a in truth["annotations"] if a["image_id"] == sample.image_id]
        kept = row[row.selected]
        boxes = sample.geometry.boxes_to_original(kept.gt_boxes.tensor)
        wanted = torch.tensor([a["bbox"] for a in own], dtype=torch.float32)
        wanted[:, 2:] += wanted[:, :2]
        assert torch.allclose(boxes, wanted, atol=1e-3)
        assert kept.gt_classes.tolist() == [a["category_id"] - 1 for a in own]
    # With selective supervision only pasted boxes would be regressed. True boxes are regressed too.
    context = core.context(core.last_batch)
    views = core.student_views(core.last_batch, core.last_pseudo, context)
    assert views.unlabeled is not None
    for target in views.unlabeled.targets:
        assert (target.gt_roi_reg_weight == 1).all() and (target.gt_rpn_reg_weight == 1).all()


@pytest.mark.parametrize("kind", ["found_boxes", "no_false_labels", "true_classes"])
def test_repaired_labels_train(recipe: CfgNode, kind: str) -> None:
    trainer = train(with_oracle(recipe, kind))
    assert torch.isfinite(torch.tensor(trainer.storage.latest()["total_loss"][0]))


def test_sets_without_truth_are_refused(recipe: CfgNode) -> None:
    del recipe.SSOD.DATASETS["squares_unlabeled"]["TRUTH"]
    with pytest.raises(UserError, match="unlabelled images have no TRUTH"):
        train(with_oracle(recipe, "true_labels"))


def test_wrong_values_are_one_line(recipe: CfgNode) -> None:
    with pytest.raises(UserError, match="SUBSTITUTION is 'half': use one of true_labels"):
        build_methods(with_oracle(recipe, "half"))


def test_nobody_gets_it_without_asking() -> None:
    code = "import ssod.diagnosis.oracle; from ssod.methods import get_method; get_method('OracleLabels')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "'OracleLabels', which does not exist" in found.stderr
