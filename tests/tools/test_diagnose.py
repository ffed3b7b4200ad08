"""The command: burn-ins first, then rows; finished runs are kept; the page has costs and gain."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from detectron2.config import CfgNode

from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.methods import METHOD_REGISTRY
from ssod.plotting.run_data import load_runs
from ssod.report.diagnosis import diagnosis_section
from ssod.sweep.runner import run_jobs
from ssod.tools import diagnose
from tiny import tiny_cfg, with_squares

AP = {"no_unlabeled": 30.0, "as_it_is": 32.0, "true_labels": 40.0}

# Stands for training.
FAKE = """
import json, os, sys
folder, ap, order = sys.argv[1], float(sys.argv[2]), sys.argv[3]
os.makedirs(folder, exist_ok=True)
with open(order, "a") as file:
    file.write(folder + chr(10))
if ap < 0:
    sys.exit("error: the data are gone: put them back.")
test = {"squares_test": {"bbox": {"AP": ap, "AP50": ap, "AP75": ap}}}
with open(os.path.join(folder, "results.json"), "w") as file:
    json.dump({"teacher_best": {"AP": ap, "step": 3, "test": test}, "steps": 5}, file)
"""


@pytest.fixture
def recipe(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    """The path of a recipe's config, and what each row's run measures."""
    cfg: CfgNode = with_squares(tiny_cfg(), squares, tmp_path / "run", ("ScoreThreshold",))
    cfg.SSOD.DATASETS["squares_unlabeled"].TRUTH = str(squares / "unlabeled.json")
    cfg.DATASETS.TEST = ("squares_test",)
    (tmp_path / "recipe.yaml").write_text(cfg.dump())
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    found: Dict[str, Any] = {"AP": dict(AP), "untils": []}

    def command(config: str, opts: List[str], until: Optional[int] = None) -> List[str]:
        cfg = load_config(config, opts)
        row = Path(cfg.OUTPUT_DIR).parent.name
        found["untils"].append((row, until))
        ap = str(found["AP"].get(row, 0.0) + cfg.SEED)
        return [sys.executable, "fake.py", cfg.OUTPUT_DIR, ap, "order.txt"]

    monkeypatch.setattr(diagnose, "job_command", command)
    monkeypatch.setattr(run_jobs, "__defaults__", (0.02,))
    yield found
    METHOD_REGISTRY._obj_map.pop("OracleLabels", None)


ROWS = ["--rows", "no_unlabeled", "as_it_is", "true_labels"]
ARGV = ["--config-file", "recipe.yaml", "--output", "out", "--seeds", "1", "2", *ROWS]


def order() -> List[str]:
    lines = Path("order.txt").read_text().splitlines()
    return ["/".join(Path(line).parts[-2:]) for line in lines]


def test_whole_diagnosis(recipe: Dict[str, Any], capsys: Any) -> None:
    assert diagnose.main(ARGV) == 0
    done = order()
    assert done[:2] == ["burn_in/seed_1", "burn_in/seed_2"] and len(done) == 2 + 6
    assert [until for row, until in recipe["untils"] if row == "burn_in"] == [2, 2]
    page = Path("out/diagnosis.md").read_text()
    assert "| as_it_is | 2 of 2 |" in page
    assert "| all errors of the labels together | +8.0 ± 0.0 (2) | true_labels − as_it_is |" in page
    assert (
        "bring +2.0 ± 0.0 (2) AP; with true labels they would bring +10.0 ± 0.0 (2): 20 %" in page
    )
    record = json.loads(Path("out/diagnosis.json").read_text())
    assert record["datasets"]["squares_test"]["gain"]["share"] == pytest.approx(20.0)
    assert page in capsys.readouterr().out
    # The report of its runs shows it.
    config = Path("out/as_it_is/seed_1/config.yaml")
    config.write_text("SEED: 1\n")
    section = diagnosis_section(load_runs(["out/as_it_is/seed_1"]))
    assert section is not None
    assert (
        "<td>33.0</td><td>34.0</td>" in section.html and "bring 2.0 AP, with true" in section.html
    )
    Path("out/diagnosis.json").write_text("{}")
    assert diagnosis_section(load_runs(["out/as_it_is/seed_1"])) is None
    config.unlink()

    # Nothing is run twice; a further seed needs its burn-in and rows alone.
    before = len(order())
    assert diagnose.main(ARGV) == 0 and len(order()) == before
    more = [word if word != "2" else "3" for word in ARGV]
    assert diagnose.main(more) == 0
    assert order()[before:][0] == "burn_in/seed_3" and len(order()) == before + 4


def test_rows_of_a_seed_wait_for_its_burn_in(recipe: Dict[str, Any], capsys: Any) -> None:
    recipe["AP"]["burn_in"] = -1.5  # seed 1 fails, seed 2 does not
    assert diagnose.main(ARGV) == 1
    assert all(run.endswith("seed_2") for run in order()[2:]) and len(order()) == 2 + 3
    assert "burn_in seed 1: failed: the data are gone" in capsys.readouterr().out


def test_no_burn_in(recipe: Dict[str, Any]) -> None:
    assert diagnose.main([*ARGV, "--", "SSOD.BURN_IN_STEPS", "0"]) == 0
    assert len(order()) == 6 and not any("burn_in" in run for run in order())


def test_mistakes_are_one_line(recipe: Dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--jobs 0"):
        diagnose.main([*ARGV, "--jobs", "0"])
    with pytest.raises(UserError, match="SEED is set by the sweep"):
        diagnose.main([*ARGV, "--", "SEED", "3"])
    with pytest.raises(UserError, match="no_such.yaml does not exist"):
        diagnose.main(["--config-file", "no_such.yaml", "--output", "out"])
