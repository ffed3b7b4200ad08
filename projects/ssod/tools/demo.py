"""Trains on digit scenes with 100 labels, with and without 1,900 unlabelled images, and compares.

python -m ssod.tools.demo [--output DIR] [KEY VALUE ...]      (from the repository's root; `make demo` does it all)

Both runs branch from one burn-in. The demo can be stopped and started again; it goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from typing import Any, Dict, List, Optional

from tabulate import tabulate

from ssod import compat

compat.apply()

from ssod.engine.setup import run_cli, setup, split_opts  # noqa: E402
from ssod.engine.trainer import SSODTrainer  # noqa: E402
from ssod.errors import UserError  # noqa: E402
from ssod.tools import report, visualise  # noqa: E402

CONFIGS = "configs/digit_scenes"
DATA = "datasets/digit_scenes"
RESULTS = "docs/results/foundation/table.csv"
STEPS, BURN_IN = 800, 300


def train(config: str, output: str, opts: List[str]) -> Dict[str, Any]:
    """Runs or resumes one training; returns its results.json."""
    path = os.path.join(output, "results.json")
    if not os.path.exists(path):
        args = argparse.Namespace(config_file=config, opts=[*opts, "OUTPUT_DIR", output])
        trainer = SSODTrainer(setup(args))
        trainer.resume_or_load(resume=True)
        trainer.train()
    with open(path) as file:
        return json.load(file)


def quoted(row: str, path: str = RESULTS) -> Optional[Dict[str, str]]:
    """One row of the committed results, or None where the file or the row is missing."""
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return next((line for line in csv.DictReader(file) if row in line.values()), None)


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
        prog="python -m ssod.tools.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="output/demo")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for all runs")
    args = parser.parse_args(argv)
    if not os.path.isdir(CONFIGS) or not os.path.exists(f"{DATA}/labeled.json"):
        raise UserError(
            f"{CONFIGS} and {DATA} are needed: run `make demo` in the repository's root."
        )
    start = time.time()
    opts = split_opts(args.opts)
    supervised, semi = f"{CONFIGS}/supervised.yaml", f"{CONFIGS}/unbiased_teacher.yaml"
    common = [
        "SOLVER.MAX_ITER",
        str(STEPS),
        "SSOD.BURN_IN_STEPS",
        str(BURN_IN),
        "SSOD.VIS_PERIOD",
        "100",
        *opts,
    ]
    burn_in = os.path.join(args.output, "burn_in")
    print(f"1/3  burn-in on 100 labelled images, {BURN_IN} steps", flush=True)
    only = ["SOLVER.MAX_ITER", str(BURN_IN), "TEST.EVAL_PERIOD", "0"]
    train(supervised, burn_in, [*common, *only, "DATASETS.TEST", "()", "DATASETS.VAL", "()"])
    branch = ["SSOD.BURN_IN_CHECKPOINT", os.path.join(burn_in, "model_final.pth")]
    results = {}
    print(f"2/3  the same 100 images for {STEPS - BURN_IN} steps more", flush=True)
    folder = os.path.join(args.output, "supervised")
    results["100 labels"] = train(supervised, folder, [*common, *branch])
    print(
        f"3/3  Unbiased Teacher, 1,900 unlabelled images added, {STEPS - BURN_IN} steps", flush=True
    )
    teacher = os.path.join(args.output, "unbiased_teacher")
    results["100 labels + 1,900 images"] = train(semi, teacher, [*common, *branch])

    weights = ["--weights", os.path.join(teacher, "teacher_best.pth")]
    for what, dataset in (
        ("detections", "digit_scenes_test"),
        ("pseudo", "digit_scenes_unlabeled"),
    ):
        picture = os.path.join(args.output, f"{what}.png")
        visualise.main(
            [
                "--config-file",
                semi,
                "--dataset",
                dataset,
                "--what",
                what,
                "--output",
                picture,
                *weights,
            ]
        )
    page = os.path.join(args.output, "report.html")
    report.main([folder, teacher, "--output", page])
    print(
        "\nBest teacher (chosen on the validation set) on 200 class-balanced test scenes, one seed:\n"
    )
    print(table(results))
    upper = quoted("supervised_all")
    if upper:
        print(
            f"\nQuoted, not run here: all 2,000 labels, {float(upper['AP_mean']):.1f} AP in {STEPS * 2} steps ({RESULTS})."
        )
    print(
        f"\n{time.time() - start:.0f} s. Look at {page}, {args.output}/detections.png and pseudo.png."
    )


if __name__ == "__main__":
    run_cli(main)
