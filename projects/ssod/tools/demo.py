"""Trains the best recipe on digit scenes: 100 labels and 1,900 unlabelled images, beside the same
recipe without these.

ssod demo [--output DIR] [KEY VALUE ...]      (`make demo` sets all up)

The demo can be stopped and started again; it goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from typing import Any, Dict, List, Optional, Tuple

from tabulate import tabulate

from ssod.data.declarations import resolve_path
from ssod.diagnosis.rows import overrides_without_unlabeled
from ssod.engine.setup import load_config, run_cli, split_opts
from ssod.errors import UserError
from ssod.sweep.records import last_log_line
from ssod.sweep.runner import (
    Job,
    ends_on_signals,
    locked,
    run_jobs,
    training_command,
)
from ssod.tools import digit_scenes, report, visualise

CONFIGS = "configs/digit_scenes"
DATA = "datasets/digit_scenes"
RESULTS = "docs/results/digit_scenes/table.csv"
# bfloat16 where the processor has instructions for it; AP is the same (docs/benchmark.md).
_FAST = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "auto"]


def train(runs: Dict[str, Tuple[str, List[str]]], output: str) -> None:
    """Runs, or resumes, trainings side by side with a line of each per minute; finished ones are
    kept.

    Args:
        runs: by name, which is the folder in `output`: config file and overrides.
    """
    jobs = []
    for name, (config, opts) in runs.items():
        folder = os.path.join(output, name)
        if not os.path.exists(os.path.join(folder, "results.json")):
            command = training_command(config, [*opts, "OUTPUT_DIR", folder])
            jobs.append(Job(name, 1, folder, command))
    told = time.monotonic()

    def tell(running: List[Job]) -> None:
        nonlocal told
        if time.monotonic() - told > 60:
            told = time.monotonic()
            for job in running:
                print(f"     {job.name}: {last_log_line(job.folder)[:110]}", flush=True)

    def ended(job: Job, reason: Optional[str]) -> None:
        if reason is not None:
            raise UserError(f"{job.name} failed: {reason} (see {job.folder}/log.txt)")

    if jobs:
        with locked(output) as lock, ends_on_signals():
            run_jobs(jobs, len(jobs), lock, lambda job: None, ended, tell)


def results_of(folder: str) -> Dict[str, Any]:
    """A finished run's results.json."""
    with open(os.path.join(folder, "results.json")) as file:
        return json.load(file)


def measured(path: str = RESULTS) -> str:
    """The committed results of all systems, or nothing where the file is missing."""
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        lines = list(csv.DictReader(file))
    rows = [
        {
            "system": line["row"],
            "AP": line["AP_mean"],
            "runs": line["runs"].split(" (")[0],
        }
        for line in lines
    ]
    return tabulate(rows, headers="keys", floatfmt=".1f")


def table(results: Dict[str, Dict[str, Any]]) -> str:
    """AP, AP50 and AP per class of each system's best teacher on the test set."""
    rows = []
    for name, result in results.items():
        (tasks,) = result["teacher_best"]["test"].values()
        boxes = tasks["bbox"]
        classes = {key: value for key, value in boxes.items() if key.startswith("AP-")}
        rows.append({"trained on": name, "AP": boxes["AP"], "AP50": boxes["AP50"], **classes})
    return tabulate(rows, headers="keys", floatfmt=".1f")


def main(argv: Optional[List[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="ssod demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="output/demo")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for all runs")
    args = parser.parse_args(argv)
    start = time.time()
    data = resolve_path(DATA)
    if not os.path.exists(f"{data}/labeled.json"):
        print(f"Drawing the scenes into {data} ...", flush=True)
        digit_scenes.main([data])
    best = f"{CONFIGS}/best.yaml"
    opts = ["SSOD.VIS_PERIOD", "200", *_FAST, *split_opts(args.opts)]
    print(
        "Side by side: the best recipe on 100 labelled and 1,900 unlabelled images, and the same without the unlabelled "
        "ones (labelled crops are pasted in both)",
        flush=True,
    )
    without = overrides_without_unlabeled(load_config(best, opts))
    train({"no_unlabeled": (best, [*without, *opts]), "best": (best, opts)}, args.output)
    folder, semi = (os.path.join(args.output, name) for name in ("no_unlabeled", "best"))
    results = {"100 labels": results_of(folder), "100 labels + 1,900 images": results_of(semi)}

    for what, dataset, weights in (
        ("detections", "digit_scenes_test", semi),  # the run's result
        # The methods' heads, which choose the labels, are in full checkpoints alone.
        ("pseudo", "digit_scenes_unlabeled", os.path.join(semi, "model_final.pth")),
    ):
        picture = os.path.join(args.output, f"{what}.png")
        visualise.main(
            [
                "--config-file",
                best,
                "--dataset",
                dataset,
                "--what",
                what,
                "--output",
                picture,
                "--weights",
                weights,
            ]
        )
    page = os.path.join(args.output, "report.html")
    report.main([folder, semi, "--output", page])
    print(
        "\nBest teacher (chosen on the validation set) on 200 class-balanced test scenes, one seed:\n"
    )
    print(table(results))
    others = measured()
    if others:
        print(f"\nQuoted from {RESULTS}, not run here (1,600 steps):\n\n{others}")
    print(
        f"\n{time.time() - start:.0f} s. Look at {page}, {args.output}/detections.png and pseudo.png."
    )


if __name__ == "__main__":
    run_cli(main)
