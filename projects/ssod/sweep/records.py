"""Reads a run's state from its folder: done, unfinished, failed or never started."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Optional, Tuple

import yaml

from ssod.plotting.run_data import metrics_by_name
from ssod.report.tables import Run

FAILED_FILE = "failed.txt"
STDERR_FILE = "stderr.txt"
_ERROR_LINE = re.compile(r"(error: |[\w.]*(Error|Exception|Interrupt|Diverged)\b)")
_LOG_PREFIX = re.compile(r"^\[[^]]*\] \S+ [A-Z]+: ")
_STEP = re.compile(r"\bstep (\d+/\d+)")


def read_run(folder: str, seed: int) -> Run:
    """The state of the run in `folder`, with its metrics if it is done."""
    path = Path(folder)
    if (path / FAILED_FILE).exists():
        return Run(seed, "failed", (path / FAILED_FILE).read_text().strip())
    if (path / "results.json").exists():
        return _read_results(path, seed)
    if not (path / "config.yaml").exists():
        return Run(seed)
    steps = _STEP.findall(tail(path / "log.txt"))
    return Run(seed, "unfinished", f"at step {steps[-1]}" if steps else "")


def failure_reason(folder: str, code: int) -> str:
    """The reason why a process ended with this exit status (negative: by a signal), in one line."""
    if code < 0:
        hint = ": was the memory exhausted?" if code == -9 else ""
        return f"ended by signal {-code}{hint}"
    lines = [line.strip() for line in tail(Path(folder) / STDERR_FILE).splitlines() if line.strip()]
    if code == 0:
        return "ended without a readable results.json"
    errors = [line for line in lines if _ERROR_LINE.match(line)] or lines
    return errors[-1].removeprefix("error: ") if errors else f"exit status {code}"


def last_log_line(folder: str) -> str:
    """The newest line of the run's log, without its time."""
    lines = tail(Path(folder) / "log.txt").strip().splitlines()
    return _LOG_PREFIX.sub("", lines[-1]) if lines else "starting"


def tail(path: Path, size: int = 16384) -> str:
    """The end of a text file. Empty if the file does not exist."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _read_results(path: Path, seed: int) -> Run:
    try:
        record = json.loads((path / "results.json").read_text())
        best = record["teacher_best"]
        metrics = {dataset: metrics_by_name(tasks) for dataset, tasks in best["test"].items()}
        return Run(
            seed, "done", "", metrics, record["steps"], best.get("step"), _chosen_on(path)
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Run(seed, "failed", "results.json cannot be read")


def _chosen_on(path: Path) -> Tuple[str, ...]:
    """The datasets on which the run chose its best teacher. Empty if its result is the last
    teacher.
    """
    try:
        datasets: Optional[dict] = yaml.safe_load((path / "config.yaml").read_text())["DATASETS"]
        return tuple((datasets or {}).get("VAL") or ())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return ()
