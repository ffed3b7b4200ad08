"""Runs configs x seeds and writes the results table: mean and spread, gap closed, paired difference
to the baseline.

ssod sweep --configs digit_scenes/supervised.yaml \\
    digit_scenes/unbiased_teacher.yaml \\
    --seeds 1 2 3 --output output/sweep --baseline supervised [--jobs N] [KEY VALUE ...]

Each run is an ordinary training run in OUTPUT/<row>/seed_<n>. The same command, or --output alone,
continues a sweep that was stopped and tries failed runs again; finished runs are kept. A row can be
one override away from a file: --configs supervised.yaml
"no_ema=supervised.yaml,SSOD.EMA.DECAY=0.0". Overrides at the end count for all rows; separate them
with -- after an option that takes several values. {seed} in a value stands for the run's seed, as
in the burn-in that rows share:
SSOD.BURN_IN_CHECKPOINT=output/burn_in/supervised/seed_{seed}/model_final.pth. OUTPUT then holds
table.md, table.csv, runs.csv (every run, every metric) and figure.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from functools import partial
from typing import List, Mapping, Optional, Sequence

from tqdm import tqdm

from ssod.engine.setup import run_cli
from ssod.errors import UserError
from ssod.report.sweep_figure import draw_sweep
from ssod.report.tables import (
    Entry,
    Line,
    Run,
    format_csv,
    format_markdown,
    format_runs_csv,
    summarise,
    unknown_metrics,
)
from ssod.sweep.plan import (
    Plan,
    changed_since,
    check_configs,
    check_overrides,
    check_plan,
    load_plan,
    parse_row,
    save_plan,
)
from ssod.sweep.records import last_log_line, read_run
from ssod.sweep.runner import (
    Job,
    ends_on_signals,
    locked,
    present_gpus,
    run_jobs,
    training_command,
)
from ssod.utils.atomic import write_atomically


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssod sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="folder of the sweep")
    add("--configs", nargs="+", metavar="ROW", help="[name=]file.yaml[,KEY=VALUE,...]")
    add("--seeds", nargs="+", type=int, metavar="N")
    add("--baseline", metavar="NAME", help="row that the others are compared with")
    add("--upper", metavar="NAME", help="row at the other end of the gap")
    add("--columns", nargs="+", metavar="METRIC", help="of results.json (default: AP AP50 AP75)")
    add(
        "--mean-of",
        action="append",
        metavar="NAME=METRIC,...",
        help="one more column, such as rarest=AP-8,AP-9; may be repeated",
    )
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    add("--tables-only", action="store_true", help="only rewrite the tables from what is there")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides of every row")
    return parser


def make_plan(args: argparse.Namespace, command: str) -> Plan:
    """The plan from the arguments; without --configs, the plan saved in --output with changes."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least one run at a time.")
    check_overrides(args.opts, "command line")
    given = {
        "rows": tuple(parse_row(text) for text in args.configs or ()),
        "seeds": tuple(args.seeds or ()),
        "opts": tuple(args.opts),
        "baseline": args.baseline,
        "upper": args.upper,
        "columns": tuple(args.columns or ()),
        "mean_of": tuple(args.mean_of or ()),
    }
    given = {key: value for key, value in given.items() if value}
    if args.configs:
        if not args.seeds:
            raise UserError(
                "--seeds is missing: name the seeds of the runs, for example --seeds 1 2 3."
            )
        plan = Plan(**{"output": args.output, "command": command, **given})
    else:
        plan = load_plan(args.output)
        plan = dataclasses.replace(plan, command=command if given else plan.command, **given)
    check_plan(plan)
    return plan


def entries_of(plan: Plan) -> List[Entry]:
    """The states and results of the runs.

    If a run was made with another config, the table says so.
    """
    entries = []
    for row in plan.rows:
        runs = []
        for seed in plan.seeds:
            run = read_run(plan.folder(row, seed), seed)
            try:
                change = changed_since(plan.config(row, seed), plan.folder(row, seed))
            except UserError as error:
                change = f"config not readable: {error}" if run.state != "not run" else ""
            if change and run.state == "done":
                run = dataclasses.replace(run, detail=change)
            runs.append(run)
        entries.append(Entry(row.name, row.source, runs))
    return entries


def write_tables(plan: Plan) -> str:
    """Writes table.md, table.csv, runs.csv and figure.png, and returns the text of the first."""
    entries, layout = entries_of(plan), plan.layout()
    done = [run for entry in entries for run in entry.runs if run.state == "done"]
    datasets = list(dict.fromkeys(name for run in done for name in run.metrics)) or [""]
    tables = {name: summarise(entries, name, layout) for name in datasets}
    text = _page(plan, tables, done)
    missing, there = unknown_metrics(entries, layout)
    if missing:
        text += f"\nNo run measured {', '.join(missing)}; there are {', '.join(there)}.\n"
    files = {
        "table.md": text,
        "table.csv": format_csv(tables, layout),
        "runs.csv": format_runs_csv(entries),
    }
    for name, content in files.items():
        data = content.encode()
        write_atomically(os.path.join(plan.output, name), lambda file, data=data: file.write(data))  # type: ignore[misc]
    figure = partial(draw_sweep, tables, layout)
    write_atomically(os.path.join(plan.output, "figure.png"), figure)
    return text


def _page(plan: Plan, tables: Mapping[str, Sequence[Line]], done: Sequence[Run]) -> str:
    layout = plan.layout()
    seeds = ", ".join(map(str, plan.seeds))
    parts = [f"    {plan.command}\n"]
    chosen = sorted({name for run in done for name in run.chosen_on})
    steps = sorted({run.steps for run in done if run.steps is not None})
    for dataset, lines in tables.items():
        about = f"Test dataset {dataset or 'not yet measured'}; seeds asked for: {len(plan.seeds)} ({seeds})"
        if steps:
            about += f"; {' or '.join(map(str, steps))} steps"
        if chosen:
            own = " itself" if dataset in chosen else ""
            about += f"; each run's best teacher, chosen on {', '.join(chosen)}{own}"
        elif done:
            about += "; each run's last teacher"
        parts += [about + ".\n", format_markdown(lines, layout)]
    notes = "Columns: mean ± sample standard deviation (number of runs)."
    if layout.baseline and layout.upper:
        notes += f" Gap closed: (AP − {layout.baseline}) / ({layout.upper} − {layout.baseline}), of means."
    if layout.baseline:
        notes += (
            f" AP − {layout.baseline}: mean over paired seeds ± standard error (number of pairs)."
        )
    return "\n".join([*parts, notes]) + "\n"


def open_jobs(plan: Plan, devices: Mapping[str, str]) -> List[Job]:
    """The runs that are not done yet. `devices`: row name to MODEL.DEVICE."""
    jobs = []
    for row, seed in plan.jobs():
        folder = plan.folder(row, seed)
        if read_run(folder, seed).state != "done":
            command = training_command(row.config, plan.overrides(row, seed))
            jobs.append(Job(row.name, seed, folder, command, devices[row.name]))
    return jobs


def run_sweep(plan: Plan, slots: int) -> int:
    """Runs what is not done yet; returns how many runs failed."""
    configs = check_configs(plan)
    devices = {row.name: str(cfg.MODEL.DEVICE) for row, cfg in zip(plan.rows, configs)}
    if any(device.startswith("cuda") for device in devices.values()) and not present_gpus():
        raise UserError(
            "MODEL.DEVICE is cuda, but PyTorch finds no GPU here: add MODEL.DEVICE cpu to the command."
        )
    with locked(plan.output) as lock, ends_on_signals():
        jobs = open_jobs(plan, devices)
        save_plan(plan)
        failed: List[str] = []
        total = len(plan.rows) * len(plan.seeds)
        bar = tqdm(
            total=total,
            initial=total - len(jobs),
            disable=None,  # not into log files
            dynamic_ncols=True,
            bar_format="{n_fmt}/{total_fmt} runs [{elapsed}<{remaining}{postfix}]",
        )

        def started(job: Job) -> None:
            tqdm.write(f"{job.label}: started, log in {os.path.join(job.folder, 'log.txt')}")

        def ended(job: Job, reason: Optional[str]) -> None:
            bar.update()
            if reason is not None:
                failed.append(job.label)
            tqdm.write(f"{job.label}: " + ("done" if reason is None else f"failed: {reason}"))
            try:
                write_tables(plan)
            except (
                UserError
            ) as error:  # a table that cannot be written must not stop the training of the others
                tqdm.write(f"note: {error}", file=sys.stderr)

        def ticked(running: List[Job]) -> None:
            lines = (f"{job.label}: {last_log_line(job.folder)}" for job in running)
            bar.set_postfix_str(" | ".join(line[:100] for line in lines))

        with bar:
            run_jobs(jobs, slots, lock, started, ended, ticked)
    return len(failed)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command. Exit status 1 when a run failed, 130 when it was interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    plan = make_plan(args, shlex.join(["python", "-m", "ssod.tools.sweep", *argv]))
    failed, interrupted = 0, False
    if args.tables_only:
        if not os.path.isdir(plan.output):
            raise UserError(
                f"--output {plan.output} does not exist, so there is nothing to tabulate."
            )
    else:
        try:
            failed = run_sweep(plan, args.jobs)
        except KeyboardInterrupt:
            interrupted = True
    print(write_tables(plan))
    print(f"Tables and figure: {plan.output}")
    if interrupted:
        print("Interrupted; the same command continues.", file=sys.stderr)
        return 130
    if failed:
        print(f"error: {failed} run(s) failed; the same command tries them again.", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    run_cli(lambda: sys.exit(main()))
