"""Two gloo ranks on the CPU stay identical, resume, and equal one rank where they can."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Dict

import pytest
import torch

import two_ranks
from runs import METHOD_NAMES, quota_free, state_of, train
from ssod.engine.launch import launch
from ssod.tools.pseudo_label import work as pseudo_label
from tiny import tiny_cfg, with_squares

# One worker of pytest-xdist runs them all, since `found` takes a minute.
pytestmark = pytest.mark.xdist_group("two_ranks")


@pytest.fixture(scope="module")
def found(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    output = tmp_path_factory.mktemp("two_ranks")
    launch(two_ranks.main, 2, args=(str(squares), str(output)), device="cpu")
    return {"output": output, **json.loads((output / "found.json").read_text())}


@pytest.mark.parametrize(
    "case",
    [
        *("toy", "live_bn", "threshold", "toy_resumed", "equal"),
        *("stored", "stored_retinanet", "full_stack", *two_ranks.FAMILIES, *METHOD_NAMES),
        *two_ranks.QUERIES,
    ],
)
def test_ranks_agree_to_the_bit(found: Dict[str, Any], case: str) -> None:
    first, second = found[case]["digests"]
    assert first == second


def test_the_running_number_of_positives_is_shared(found: Dict[str, Any]) -> None:
    first, second = found["stored_retinanet"]["normalizers"]
    assert first == second != 100  # where Detectron2 starts


@pytest.mark.parametrize("refresh, steps", [("on_visit", [4, 6, 8]), ("sweep", [4, 7])])
def test_crop_bank_reaches_both_ranks(found: Dict[str, Any], refresh: str, steps: list) -> None:
    """Both ranks hold the same bank, publish it at the same steps, and draw from it."""
    case = found[f"CropBank {refresh}"]
    assert case["digests"][0] == case["digests"][1]
    for rank in case["ranks"]:
        assert [entry[1] for entry in rank["board"]] == steps
        assert rank["visited"] == 12 and rank["pasted_from_pseudo"] > 0


def test_two_ranks_run_all_phases(found: Dict[str, Any]) -> None:
    folder = found["output"] / "tools" / "phases"
    record = json.loads((folder / "phases.json").read_text())
    assert list(record["test"]["squares_test"]["rows"]) == ["0", "1", "0~1"]
    labels = json.loads((folder / "phase_1" / "pseudo_labels.json").read_text())
    # Those of the 12 images that have a label.
    labelled = {row["image_id"] for row in labels["annotations"]}
    assert labelled and labelled == {image["id"] for image in labels["images"]}
    assert (folder / "phase_1" / "model_final.pth").exists() and (folder / "summary.md").exists()


def test_two_ranks_label_as_one(found: Dict[str, Any]) -> None:
    folder = found["output"] / "tools"
    weights = str(folder / "phases" / "phase_0")
    pseudo_label(two_ranks.label_arguments(folder, weights, "alone.json"))
    one, two = (json.loads((folder / f"{name}.json").read_text()) for name in ("alone", "labels"))
    assert one["images"] == two["images"] and one["annotations"] == two["annotations"] != []


def test_two_ranks_purify_together(found: Dict[str, Any]) -> None:
    folder = found["output"] / "tools" / "purified"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["images"], summary["kept"], len(summary["risk"])) == (12, 5, 2)
    with open(folder / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    scores = sorted((float(row["score"]) for row in rows), reverse=True)
    assert len(scores) == 12 and len(set(scores)) > 1
    assert sorted(float(row["score"]) for row in rows if row["kept"] == "1") == scores[4::-1]


def test_two_ranks_resume_to_the_bit(found: Dict[str, Any]) -> None:
    assert found["toy"]["digests"] == found["toy_resumed"]["digests"]


def test_two_ranks_equal_one(found: Dict[str, Any], squares: Path, tmp_path: Path) -> None:
    cfg = quota_free(with_squares(tiny_cfg(), squares, tmp_path / "one"))
    one = state_of(train(cfg))
    two = torch.load(found["output"] / "equal.pth", weights_only=True)
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-6), name
