"""The sweep: what it runs, what it keeps after a kill, and what it makes of failures and changed
configs.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch

import ssod
from ssod.engine.setup import load_config
from ssod.errors import UserError
from ssod.sweep import runner
from ssod.sweep.plan import Plan, parse_row
from ssod.sweep.records import failure_reason, last_log_line, read_run
from ssod.sweep.runner import Job, environment, locked, run_jobs
from ssod.tools import sweep

# Stands for training: says that it started, then does what the behaviour asks for. The AP is the
# seed plus that of the row.
FAKE = """
import json, os, sys, time
folder, ap, behaviour = sys.argv[1], float(sys.argv[2]), sys.argv[3]
with open(os.path.join(folder, "starts"), "a") as file:
    file.write(json.dumps([os.environ.get(k) for k in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]) + chr(10))
os.replace(os.path.join(folder, "next.yaml"), os.path.join(folder, "config.yaml"))
if behaviour == "hang":
    time.sleep(60)
if behaviour == "fail":
    print("some warning", file=sys.stderr)
    sys.exit("error: the data are gone: put them back.")
if behaviour == "silent":
    sys.exit()
bbox = {"AP": ap, "AP50": float("nan")}
with open(os.path.join(folder, "results.json"), "w") as file:
    json.dump({"teacher_best": {"AP": ap, "step": 3, "test": {"squares_test": {"bbox": bbox}}}, "steps": 5}, file)
"""

CONFIG = """
MODEL: {DEVICE: cpu}
DATASETS: {TRAIN: [squares_labeled], VAL: [squares_val], TEST: [squares_test]}
SOLVER: {MAX_ITER: 5}
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dict[str, str]:
    """Configs sup.yaml and all.yaml in the current folder; a dict of row name to behaviour of its
    runs.
    """
    behaviour: Dict[str, str] = {}
    (tmp_path / "fake.py").write_text(FAKE)
    for name in ("sup", "all"):
        (tmp_path / f"{name}.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def command(config: str, opts: List[str]) -> List[str]:
        cfg = load_config(config, opts)
        folder, name = Path(cfg.OUTPUT_DIR), Path(cfg.OUTPUT_DIR).parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "next.yaml").write_text(cfg.dump())
        ap = str(cfg.SEED + {"sup": 40, "all": 60}.get(name, 50))
        return [sys.executable, "fake.py", str(folder), ap, behaviour.get(name, "")]

    monkeypatch.setattr(sweep, "training_command", command)
    monkeypatch.setattr(run_jobs, "__defaults__", (0.02,))
    return behaviour


ROWS = ["--configs", "sup.yaml", "all.yaml", "ours=sup.yaml,SOLVER.BASE_LR=0.5"]
ENDS = ["--baseline", "sup", "--upper", "all", "--output", "out"]


def table() -> Dict[str, Dict[str, str]]:
    with open("out/table.csv") as file:
        return {line["row"]: line for line in csv.DictReader(file)}


def starts(row: str, seed: int) -> int:
    path = Path("out", row, f"seed_{seed}", "starts")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_whole_sweep(fake: Dict[str, str], capsys: Any) -> None:
    argv = [*ROWS, "--seeds", "1", "2", *ENDS, "SOLVER.WARMUP_ITERS", "7"]
    assert sweep.main(argv) == 0
    rows = table()
    assert [rows[n]["AP_mean"] for n in ("sup", "all", "ours")] == ["41.5", "61.5", "51.5"]
    assert rows["ours"]["gap_closed_percent"] == "50.0"
    assert (rows["ours"]["difference_mean"], rows["ours"]["difference_se"]) == ("10.0", "0.0")
    assert rows["ours"]["AP50_mean"] == ""  # NaN
    cfg = load_config("out/ours/seed_2/config.yaml")
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS) == (2, 0.5, 7)
    page = Path("out/table.md").read_text()
    assert "python -m ssod.tools.sweep --configs sup.yaml" in page.splitlines()[0]
    assert "Test dataset squares_test; seeds asked for: 2 (1, 2); 5 steps" in page
    assert "chosen on squares_val." in page
    assert "| ours | 2 of 2 | 51.5 ± 0.7 (2) |  |  | 50 % | +10.0 ± 0.0 (2) |" in page
    assert Path("out/figure.png").stat().st_size > 5000
    assert page in capsys.readouterr().out

    # The folder alone is enough to add a seed; what is done is kept.
    assert sweep.main(["--output", "out", "--seeds", "1", "2", "3"]) == 0
    assert table()["sup"]["AP_mean"] == "42.0"
    assert [starts("sup", seed) for seed in (1, 2, 3)] == [1, 1, 1]


def test_failures_are_listed_and_tried_again(fake: Dict[str, str], capsys: Any) -> None:
    fake.update(sup="fail", all="silent")
    assert sweep.main([*ROWS, "--seeds", "1", *ENDS]) == 1
    rows = table()
    assert rows["sup"]["runs"] == "failed: the data are gone: put them back."
    assert rows["all"]["runs"] == "failed: ended without a readable results.json"
    assert (rows["ours"]["AP_mean"], rows["ours"]["gap_closed_percent"]) == ("51.0", "")
    assert "2 run(s) failed" in capsys.readouterr().err
    fake.clear()
    assert sweep.main(["--output", "out"]) == 0
    assert [starts(row, 1) for row in ("sup", "all", "ours")] == [2, 2, 1]
    assert table()["ours"]["gap_closed_percent"] == "50.0"


def test_interrupted(fake: Dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the middle: the process in progress is ended, the table says so, and the same
    command continues.
    """
    fake["ours"] = "hang"
    pids: List[int] = []
    real = runner._start

    def watched(job: Job, extra: Dict[str, str], lock: int) -> Any:
        process = real(job, extra, lock)
        pids.append(process.pid)
        return process

    def line(folder: str) -> str:
        if "ours" in folder and (Path(folder) / "config.yaml").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return ""

    monkeypatch.setattr(runner, "_start", watched)
    monkeypatch.setattr(sweep, "last_log_line", line)
    argv = [*ROWS, "--seeds", "1", "2", *ENDS]
    assert sweep.main(argv) == 130
    assert table()["ours"]["runs"] == "0 of 2 (seed 1 unfinished; seed 2 not run)"
    assert table()["sup"]["runs"] == "1 of 2 (seed 2 not run)"
    with pytest.raises(ProcessLookupError):
        os.kill(pids[-1], 0)
    fake.clear()
    monkeypatch.setattr(sweep, "last_log_line", last_log_line)
    assert sweep.main(argv) == 0
    assert [starts("ours", 1), starts("sup", 1), starts("ours", 2)] == [2, 1, 1]


def test_changed_config(fake: Dict[str, str]) -> None:
    argv = [*ROWS, "--seeds", "1", *ENDS]
    sweep.main(argv)
    with pytest.raises(UserError, match=r"sup/seed_1.*SOLVER.MAX_ITER was 5, now 6.*--output"):
        sweep.main([*argv, "SOLVER.MAX_ITER", "6"])
    # Tables can still be made, and say what they show.
    assert sweep.main([*argv, "--tables-only", "SOLVER.MAX_ITER", "6"]) == 0
    assert "1 of 1 (seed 1: SOLVER.MAX_ITER was 5, now 6)" in table()["all"]["runs"]
    # A key that the run did not know is a change only if it is not at its default.
    path = Path("out/sup/seed_1/config.yaml")
    path.write_text(path.read_text().replace("  PSEUDO_SCORE_FLOOR: 0.05\n", ""))
    assert sweep.main(argv) == 0
    with pytest.raises(UserError, match="PSEUDO_SCORE_FLOOR was 0.05, now 0.1"):
        sweep.main([*argv, "SSOD.PSEUDO_SCORE_FLOOR", "0.1"])
    path.write_text("[")
    with pytest.raises(UserError, match="config.yaml cannot be read"):
        sweep.main(argv)


def test_tables_only(fake: Dict[str, str], capsys: Any) -> None:
    with pytest.raises(UserError, match="out does not exist"):
        sweep.main([*ROWS, "--seeds", "1", *ENDS, "--tables-only"])
    sweep.main([*ROWS, "--seeds", "1", "2", *ENDS])
    # Another sweep holds the folder; tables can be made all the same.
    with locked("out"):
        argv = [
            "--output",
            "out",
            "--tables-only",
            "--columns",
            "AP",
            "AP-9",
            "--mean-of",
            "m=AP,AP50",
        ]
        assert sweep.main(argv) == 0
        with pytest.raises(UserError, match="A sweep is running in out"), locked("out", patience=0):
            pass
    assert "No run measured AP-9; there are AP, AP50." in Path("out/table.md").read_text()
    assert list(table()["sup"])[5:11] == [
        "AP_mean",
        "AP_std",
        "AP_n",
        "AP-9_mean",
        "AP-9_std",
        "AP-9_n",
    ]
    assert table()["sup"]["m_n"] == "0"  # AP50 is NaN


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--configs", "gone.yaml", "--seeds", "1"], "there is no file gone.yaml"),
        (["--configs", "sup.yaml"], "--seeds is missing"),
        ([], "out holds no sweep"),
        (["--configs", "sup.yaml", "sup.yaml", "--seeds", "1"], "two rows are called sup"),
        (["--configs", "sup.yaml", "--seeds", "1", "1"], "one is given twice"),
        (["--configs", "sup.yaml", "--seeds", "-1"], "use 0 or more"),
        (
            ["--configs", "sup.yaml", "--seeds", "1", "--baseline", "supp"],
            "--baseline supp is no row",
        ),
        (["--configs", "sup.yaml", "--seeds", "1", "--upper", "sup"], "--upper needs another row"),
        (["--configs", "sup.yaml", "--seeds", "1", "--jobs", "0"], "--jobs 0"),
        (["--configs", "sup.yaml", "--seeds", "1", "--mean-of", "AP-8"], "--mean-of AP-8"),
        (["--configs", "a b=sup.yaml", "--seeds", "1"], "names a folder"),
        (["--configs", "sup.yaml,SEED=3", "--seeds", "1"], "SEED is set by the sweep; use --seeds"),
        (
            ["--configs", "sup.yaml", "--seeds", "1", "--jobs", "1", "OUTPUT_DIR", "x"],
            "use --output",
        ),
        (["--configs", "x=sup.yaml,SOLVER.BASE=3", "--seeds", "1"], "Row x: .*SOLVER.BASE"),
        (
            ["--configs", "sup.yaml", "x=sup.yaml,DATASETS.TEST=('a',)", "--seeds", "1"],
            "x is tested on a",
        ),
        (["--configs", "sup.yaml,DATASETS.TEST=()", "--seeds", "1"], "DATASETS.TEST is empty"),
        (["--configs", "sup.yaml,MODEL.DEVICE=cuda", "--seeds", "1"], "add MODEL.DEVICE cpu"),
        (
            ["--configs", "sup.yaml", "--seeds", "1", "--jobs", "1", "SOLVER.MAX_ITER"],
            "has no value",
        ),
    ],
)
def test_wrong_input(
    fake: Dict[str, str], argv: List[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message) as caught:
        sweep.main(["--output", "out", *argv])
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()  # nothing was started


def test_parse_row() -> None:
    assert parse_row("a/b.yaml").name == "b"
    row = parse_row('x_1.5=b.yaml,SSOD.METHODS=("A","B"),SOLVER.MAX_ITER=7')
    assert (row.name, row.config) == ("x_1.5", "b.yaml")
    assert row.overrides == ("SSOD.METHODS", '("A","B")', "SOLVER.MAX_ITER", "7")
    assert row.source == 'b.yaml,SSOD.METHODS=("A","B"),SOLVER.MAX_ITER=7'
    assert parse_row("runs/a=1/b.yaml").config == "runs/a=1/b.yaml"
    with pytest.raises(UserError, match="no file is named"):
        parse_row("x=")


def test_seed_in_a_value(tmp_path: Path) -> None:
    row = parse_row("a=b.yaml,SSOD.BURN_IN_CHECKPOINT=burn_in/seed_{seed}/model_final.pth")
    plan = Plan(str(tmp_path), (row,), (1, 2), ("OTHER", "{seed}"))
    assert plan.overrides(row, 2)[:4] == [
        *("OTHER", "2"),
        *("SSOD.BURN_IN_CHECKPOINT", "burn_in/seed_2/model_final.pth"),
    ]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runner, "cores", lambda: 16)
    gpus = ["0", "3"]
    assert environment(0, 1, "cpu", []) == {}
    assert environment(1, 5, "cpu", gpus) == {"OMP_NUM_THREADS": "3"}
    assert environment(3, 32, "cuda", gpus) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "3"}
    assert environment(0, 1, "cuda", gpus) == {"CUDA_VISIBLE_DEVICES": "0"}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment(0, 4, "cpu", []) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runner.present_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert runner.present_gpus() == ["5", "7"]


def test_parallel_jobs(fake: Dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "cores", lambda: 6)
    most = 0

    real = runner.run_jobs

    def spied(jobs: Any, slots: int, lock: int, start: Any, end: Any, tick: Any) -> None:
        def count(running: List[Job]) -> None:
            nonlocal most
            most = max(most, len(running))
            tick(running)

        real(jobs, slots, lock, start, end, count)

    monkeypatch.setattr(sweep, "run_jobs", spied)
    assert sweep.main([*ROWS, "--seeds", "1", "2", *ENDS, "--jobs", "3"]) == 0
    assert most == 3
    first = json.loads(Path("out/sup/seed_1/starts").read_text())
    assert first[0] == "2"
    assert all(row["runs_done"] == "2" for row in table().values())


def test_records(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert read_run(folder, 1).state == "not run"
    (tmp_path / "config.yaml").write_text("x: 1")
    (tmp_path / "log.txt").write_text(
        "[11/21 07:30:34] ssod.engine.writers INFO: step 40/1600  eta 0:11\n"
        "[11/21 07:30:44] ssod.engine.writers INFO: saving\n"
    )
    assert (read_run(folder, 1).state, read_run(folder, 1).detail) == (
        "unfinished",
        "at step 40/1600",
    )
    assert last_log_line(folder) == "saving"
    for text in ("{", "[]", '{"teacher_best": {}}'):
        (tmp_path / "results.json").write_text(text)
        assert read_run(folder, 1).detail == "results.json cannot be read"
    assert failure_reason(folder, 3) == "exit status 3"
    (tmp_path / "stderr.txt").write_text(
        "Traceback (most recent call last):\n  File x\nRuntimeError: out of memory\n  0%|  |\n"
    )
    assert failure_reason(folder, 1) == "RuntimeError: out of memory"
    assert failure_reason(folder, -9) == "ended by signal 9: was the memory exhausted?"


def test_real_run_survives_a_kill(
    tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself, killed outright in training: its run dies with it, and the next sweep
    finishes it.
    """
    coco = "{{FORMAT: coco, ANNOTATIONS: {root}/{name}.json, IMAGES: {root}/{name}}}"
    base = Path(__file__).parents[2] / "configs/digit_scenes/base.yaml"
    declared = (f"squares_{n}: " + coco.format(root=squares, name=n) for n in ("labeled", "test"))
    (tmp_path / "tiny.yaml").write_text(
        f'_BASE_: "{base}"\n'
        "MODEL: {ROI_HEADS: {NUM_CLASSES: 3}}\n"
        "INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 64}\n"
        "DATASETS: {TRAIN: [squares_labeled], VAL: [squares_test], TEST: [squares_test]}\n"
        "SOLVER: {MAX_ITER: 12, CHECKPOINT_PERIOD: 2, IMS_PER_BATCH: 2}\n"
        "TEST: {EVAL_PERIOD: 0}\n"
        f"SSOD: {{DATASETS: {{{', '.join(declared)}}}}}\n"
    )
    arguments = ["--configs", "tiny.yaml", "--seeds", "1", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(ssod.__file__).parents[1]))
    folder = tmp_path / "out/tiny/seed_1"
    first = subprocess.Popen([sys.executable, "-m", "ssod.tools.sweep", *arguments])
    end = time.monotonic() + 120
    while not (folder / "last_checkpoint").exists() and first.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    first.kill()
    assert first.wait() == -9
    with locked("out"):  # the run holds it as long as it lives
        assert read_run(str(folder), 1).state == "unfinished"
    assert sweep.main(arguments) == 0
    done = read_run(str(folder), 1)
    assert (done.state, done.steps, done.chosen_on) == ("done", 12, ("squares_test",))
    page = Path("out/table.md").read_text()
    assert "| tiny | 1 of 1 |" in page and "chosen on squares_test itself" in page
    steps = [json.loads(line)["iteration"] for line in (folder / "metrics.json").open()]
    assert len(steps) == len(set(steps))
    assert re.search(r"[Ll]oading.*model_\d+\.pth", (folder / "log.txt").read_text())
