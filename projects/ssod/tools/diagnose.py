"""Finds out which errors of pseudo-labels cost AP, with runs that correct them by the truth.

ssod diagnose --config-file digit_scenes/best.yaml --seeds 1 --output
    output/diagnose [--jobs N] [KEY VALUE ...]

It works for any config whose unlabelled sets declare TRUTH. All rows but the last continue the same
burn-in of their seed:

  no_unlabeled      the same recipe without unlabelled images
  as_it_is          the recipe
  true_classes      the teacher's boxes with true classes
  no_false_labels   the teacher's labels without its false ones
  found_boxes       true boxes of the objects that the teacher finds
  true_labels       true labels in place of the teacher's
  all_labels        no unlabelled images, all of them labelled, from the first step

--rows runs some of them. The same command continues a diagnosis that was stopped. OUTPUT then holds
diagnosis.md, table.csv, runs.csv, figure.png and diagnosis.json, which the report of its runs
shows.

The rows read the labels of "unlabelled" images. Their numbers explain a recipe and are not its
results.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from typing import Dict, List, Optional, Sequence

from ssod.diagnosis.costs import costs, format_costs, gain
from ssod.diagnosis.oracle import register_oracle
from ssod.diagnosis.rows import (
    AS_IS,
    BURN_IN,
    MEANING,
    ROWS,
    WITHOUT,
    check_recipe,
    make_rows,
    without_unlabeled,
)
from ssod.engine.setup import load_config, run_cli
from ssod.errors import UserError
from ssod.report.diagnosis import FILE
from ssod.report.tables import MAIN_METRIC, values_by_seed
from ssod.sweep.plan import Plan, Row, check_overrides, check_plan
from ssod.sweep.records import last_log_line, read_run
from ssod.sweep.runner import Job, ends_on_signals, locked, run_jobs
from ssod.tools import sweep
from ssod.utils.atomic import write_atomically


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssod diagnose",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the recipe")
    add("--output", required=True, metavar="DIR", help="folder of the diagnosis")
    add("--seeds", nargs="+", type=int, default=[1], metavar="N", help="(default: 1)")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="(default: all)")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides of every row")
    return parser


def job_command(config: str, opts: Sequence[str], until: Optional[int] = None) -> List[str]:
    """Starts one run in a process of its own."""
    stop = [] if until is None else ["--until", str(until)]
    return [sys.executable, "-m", "ssod.diagnosis.one", *stop, "--config-file", config, *opts]


def make_plan(args: argparse.Namespace, command: str) -> Plan:
    """A sweep of the rows."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least one run at a time.")
    check_overrides(args.opts, "command line")
    cfg = load_config(args.config_file, args.opts)
    check_recipe(cfg)
    start = ""
    if cfg.SSOD.BURN_IN_STEPS > 0 and not cfg.SSOD.BURN_IN_CHECKPOINT:
        folder = os.path.join(os.path.abspath(args.output), BURN_IN)
        start = os.path.join(folder, "seed_{seed}", "model_final.pth")
    rows = make_rows(args.config_file, cfg, args.rows, args.output, start)
    baseline = WITHOUT if WITHOUT in args.rows else ""
    plan = Plan(
        output=args.output,
        rows=rows,
        seeds=tuple(args.seeds),
        opts=tuple(args.opts),
        baseline=baseline,
        upper="true_labels" if baseline and "true_labels" in args.rows else "",
        command=command,
    )
    check_plan(plan)
    dropped = [n for n in without_unlabeled(cfg).dropped if n in cfg.SSOD.METHODS]
    if dropped:
        print(f"Without unlabelled images: {', '.join(dropped)} left out.")
    return plan


def stages(plan: Plan, config: str) -> List[List[Job]]:
    """What is still to run: the burn-ins, then the rows."""
    burn_in = Row(BURN_IN, config)
    first: List[Job] = []
    rows: List[Job] = []
    for row, seed in plan.jobs():
        folder = plan.folder(row, seed)
        cfg = plan.config(row, seed)
        device = str(cfg.MODEL.DEVICE)
        if read_run(folder, seed).state == "done":
            continue
        rows.append(
            Job(row.name, seed, folder, job_command(row.config, plan.overrides(row, seed)), device)
        )
        start = plan.folder(burn_in, seed)
        wanted = cfg.SSOD.BURN_IN_CHECKPOINT == os.path.join(start, "model_final.pth")
        waiting = any(job.seed == seed for job in first)
        if wanted and not waiting and read_run(start, seed).state != "done":
            command = job_command(
                config, plan.overrides(burn_in, seed), until=cfg.SSOD.BURN_IN_STEPS
            )
            first.append(Job(BURN_IN, seed, start, command, device))
    return [first, rows]


def run_stages(plan: Plan, config: str, slots: int) -> int:
    """Runs what is not done yet; returns how many runs failed."""
    sweep.check_configs(plan)
    failed: List[str] = []

    def started(job: Job) -> None:
        print(f"{job.label}: started, log in {os.path.join(job.folder, 'log.txt')}", flush=True)

    def ended(job: Job, reason: Optional[str]) -> None:
        if reason is not None:
            failed.append(job.label)
        print(f"{job.label}: " + ("done" if reason is None else f"failed: {reason}"), flush=True)

    with locked(plan.output) as lock, ends_on_signals():
        for jobs in stages(plan, config):
            lost = {label.rpartition(" ")[2] for label in failed}
            ready = [job for job in jobs if str(job.seed) not in lost]
            run_jobs(ready, slots, lock, started, ended, _Ticker())
    return len(failed)


class _Ticker:
    """Prints the last log line of each running job every two minutes."""

    def __init__(self) -> None:
        self.ticks = 0

    def __call__(self, running: List[Job]) -> None:
        self.ticks += 1
        if self.ticks % 240 == 0:  # two minutes
            for job in running:
                print(f"     {job.label}: {last_log_line(job.folder)[:110]}", flush=True)


def write_diagnosis(plan: Plan) -> str:
    """Writes diagnosis.md, diagnosis.json and the sweep's tables, and returns the text."""
    sweep.write_tables(plan)
    entries = sweep.entries_of(plan)
    done = [run for entry in entries for run in entry.runs if run.state == "done"]
    parts = [f"    {plan.command}\n"]
    datasets: Dict[str, object] = {}
    for dataset in dict.fromkeys(name for run in done for name in run.metrics):
        values = {e.name: values_by_seed(e, dataset, [MAIN_METRIC]) for e in entries}
        lines = sweep.summarise(entries, dataset, plan.layout())
        found, gained = costs(values), gain(values)
        parts += [f"Test dataset {dataset}.\n", sweep.format_markdown(lines, plan.layout())]
        parts += [format_costs(found, gained)]
        datasets[dataset] = {
            "values": values,
            "costs": [dataclasses.asdict(cost) for cost in found],
            "gain": dataclasses.asdict(gained) if gained else None,
        }
    parts += [f"* {row.name}: {MEANING[row.name]}" for row in plan.rows]
    if plan.baseline:
        parts += [
            f"\nMean over paired seeds ± standard error (number of pairs). `{AS_IS}` is the recipe."
        ]
    record = {"rows": {row.name: MEANING[row.name] for row in plan.rows}, "datasets": datasets}
    text = "\n".join(parts) + "\n"
    for name, content in (("diagnosis.md", text), (FILE, json.dumps(record, indent=1))):
        data = content.encode()
        write_atomically(os.path.join(plan.output, name), lambda file, data=data: file.write(data))  # type: ignore[misc]
    return text


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command. Exit status 1 when a run failed, 130 when it was interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    register_oracle()
    os.makedirs(args.output, exist_ok=True)
    plan = make_plan(args, shlex.join(["python", "-m", "ssod.tools.diagnose", *argv]))
    failed, interrupted = 0, False
    try:
        failed = run_stages(plan, args.config_file, args.jobs)
    except KeyboardInterrupt:
        interrupted = True
    print(write_diagnosis(plan))
    print(f"Tables and figure: {plan.output}")
    if interrupted:
        print("Interrupted; the same command continues.", file=sys.stderr)
        return 130
    if failed:
        print(f"error: {failed} run(s) failed; the same command tries them again.", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    run_cli(lambda: sys.exit(main()))
