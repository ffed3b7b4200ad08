"""The runs that a diagnosis makes of a recipe, and the recipes that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from ssod.data.catalog import load_labeled
from ssod.data.readings import register_datasets
from ssod.diagnosis.rows import ROWS, check_recipe, make_rows, without_unlabeled
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.methods import learns_from_unlabeled


def saved(cfg: CfgNode, tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(cfg.dump())
    return str(path)


def test_rows_are_configs_of_the_recipe(recipe: CfgNode, tmp_path: Path) -> None:
    path = saved(recipe, tmp_path)
    check_recipe(recipe)
    rows = {r.name: r for r in make_rows(path, recipe, ROWS, str(tmp_path), "burn/{seed}.pth")}
    assert list(rows) == list(ROWS)
    cfgs = {name: load_config(row.config, row.overrides) for name, row in rows.items()}
    for name, cfg in cfgs.items():
        register_datasets(cfg)
        alone = name in ("no_unlabeled", "all_labels")
        assert learns_from_unlabeled(cfg) != alone and bool(cfg.DATASETS.UNLABELED) != alone
        assert cfg.SSOD.BURN_IN_CHECKPOINT == ("" if name == "all_labels" else "burn/{seed}.pth")
    assert cfgs["as_it_is"].SSOD.METHODS == ("ScoreThreshold", "CropBank")
    assert cfgs["no_unlabeled"].SSOD.METHODS == ("CropBank",)
    assert cfgs["found_boxes"].SSOD.METHODS[-1] == "OracleLabels"
    assert cfgs["found_boxes"].SSOD.ORACLE_LABELS.SUBSTITUTION == "found_boxes"
    records = load_labeled(cfgs["all_labels"])
    assert len(records) == 8 + 12 and all(record["annotations"] for record in records)


def test_only_rows_that_are_asked_for(recipe: CfgNode, tmp_path: Path) -> None:
    rows = make_rows(saved(recipe, tmp_path), recipe, ["true_labels", "as_it_is"], "out", "")
    assert [row.name for row in rows] == ["as_it_is", "true_labels"]
    assert rows[0].overrides == ()


def test_true_labels_need_no_online_teacher(recipe: CfgNode, tmp_path: Path) -> None:
    recipe.SSOD.METHODS = ("ScoreThreshold", "SoftDistillation", "CropBank")
    rows = make_rows(saved(recipe, tmp_path), recipe, ["true_labels", "found_boxes"], "out", "")
    methods = [load_config(row.config, row.overrides).SSOD.METHODS for row in rows]
    assert methods[1] == ("ScoreThreshold", "CropBank", "OracleLabels")
    assert methods[0] == ("ScoreThreshold", "SoftDistillation", "CropBank", "OracleLabels")


def test_pasting_into_unlabelled_images_alone_cannot_stay(recipe: CfgNode) -> None:
    check_recipe(recipe)
    assert without_unlabeled(recipe).kept == ("CropBank",)
    recipe.SSOD.CROP_BANK.PASTE_ON = ("unlabeled",)
    assert without_unlabeled(recipe).dropped == ("ScoreThreshold", "CropBank")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("SSOD.METHODS", ("CropBank",), "No method of SSOD.METHODS learns"),
        ("SSOD.PSEUDO_LABELS", "x.json", "SSOD.PSEUDO_LABELS is set"),
        ("DATASETS.TEST", (), "DATASETS.TEST is empty"),
        ("SSOD.DATASETS.squares_unlabeled.TRUTH", "", "squares_unlabeled has no TRUTH"),
        ("SSOD.DATASETS.squares_unlabeled.TRUTH", "missing.json", "missing.json"),
    ],
)
def test_what_cannot_be_diagnosed(recipe: CfgNode, key: str, value: Any, message: str) -> None:
    recipe.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        check_recipe(recipe)
