"""Results tables of configs x seeds, as Markdown and CSV.

A table row is one config; its runs differ in the seed alone. Numbers are Detectron2's: AP in
percent.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ssod.report.statistics import Estimate, gap_closed, mean_and_deviation, paired_difference

# The metric of the gap and of the difference to the baseline.
MAIN_METRIC = "AP"
_LONGEST_REASON = 160


@dataclass(frozen=True)
class Run:
    """One run. `state`: "done", "failed", "unfinished" or "not run"; `detail` says why or how far.

    `metrics[dataset][metric]` and `steps` (of training, and of the best teacher) are there when it
    is done.
    """

    seed: int
    state: str = "not run"
    detail: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    steps: Optional[int] = None
    best_step: Optional[int] = None
    chosen_on: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """All asked-for runs of one config. `source`: its file and overrides."""

    name: str
    source: str
    runs: Sequence[Run]


@dataclass(frozen=True)
class Layout:
    """What to show. `columns`: header to the metrics whose mean it shows (mostly one).

    `baseline` and `upper` name entries; without `baseline` there is no difference, without both no
    gap.
    """

    columns: Mapping[str, Sequence[str]]
    baseline: str = ""
    upper: str = ""


@dataclass(frozen=True)
class Line:
    """The numbers of one row on one dataset."""

    entry: Entry
    cells: Dict[str, Estimate]
    gap: Optional[float]
    difference: Optional[Estimate]


def values_by_seed(entry: Entry, dataset: str, metrics: Sequence[str]) -> Dict[int, float]:
    """The mean of `metrics` per finished run; NaN where one of them was not measured."""
    found: Dict[int, float] = {}
    for run in entry.runs:
        if run.state == "done":
            numbers = [run.metrics.get(dataset, {}).get(name, float("nan")) for name in metrics]
            found[run.seed] = sum(numbers) / len(numbers)
    return found


def summarise(entries: Sequence[Entry], dataset: str, layout: Layout) -> List[Line]:
    """The rows of the table of one dataset, in the order of `entries`."""
    main = {entry.name: values_by_seed(entry, dataset, [MAIN_METRIC]) for entry in entries}
    means = {name: mean_and_deviation(values.values()).mean for name, values in main.items()}
    lines = []
    for entry in entries:
        cells = {
            header: mean_and_deviation(values_by_seed(entry, dataset, metrics).values())
            for header, metrics in layout.columns.items()
        }
        gap = gap_closed(means[entry.name], means.get(layout.baseline), means.get(layout.upper))
        difference = None
        if layout.baseline in main and entry.name != layout.baseline:
            difference = paired_difference(main[entry.name], main[layout.baseline])
        lines.append(Line(entry, cells, gap, difference))
    return lines


def runs_text(runs: Sequence[Run]) -> str:
    """The number of finished runs, and the state of the others."""
    done = sum(run.state == "done" for run in runs)
    others = [run for run in runs if run.state != "done"]
    if all(run.state == "not run" for run in runs):
        return "not run"
    if len({(run.state, run.detail) for run in runs}) == 1 and others:
        return _what(runs[0])
    notes = [f"seed {run.seed} {_what(run)}" for run in others]
    # A finished run can have a note as well: that its config has changed since.
    notes += [
        f"seed {run.seed}: {run.detail}" for run in runs if run.state == "done" and run.detail
    ]
    return f"{done} of {len(runs)}" + (f" ({'; '.join(notes)})" if notes else "")


def unknown_metrics(entries: Sequence[Entry], layout: Layout) -> Tuple[List[str], List[str]]:
    """Metrics of the layout that no finished run has, and those that there are; both empty without
    a finished run.
    """
    there = {m for e in entries for r in e.runs for values in r.metrics.values() for m in values}
    asked = [metric for metrics in layout.columns.values() for metric in metrics]
    return [metric for metric in asked if there and metric not in there], sorted(there)


def format_markdown(lines: Sequence[Line], layout: Layout) -> str:
    """The table alone: `mean ± sample standard deviation (n)` per column; blank where there is
    nothing to show.
    """
    header = ["", "runs", *layout.columns]
    header += ["gap closed"] * bool(layout.baseline and layout.upper)
    header += [f"{MAIN_METRIC} − {layout.baseline}"] * bool(layout.baseline)
    rows = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for line in lines:
        row = [line.entry.name, runs_text(line.entry.runs)]
        row += [_estimate(line.cells[name]) for name in layout.columns]
        if layout.baseline and layout.upper:
            row.append("" if line.gap is None else f"{line.gap:.0f} %")
        if layout.baseline:
            row.append(_estimate(line.difference, sign="+") if line.difference else "")
        rows.append([cell.replace("|", "\\|") for cell in row])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def format_csv(tables: Mapping[str, Sequence[Line]], layout: Layout) -> str:
    """The same numbers unrounded, one line per dataset and row."""
    header = ["dataset", "row", "config", "runs_done", "runs_asked"]
    header += [f"{name}_{part}" for name in layout.columns for part in ("mean", "std", "n")]
    header += ["gap_closed_percent", "difference_mean", "difference_se", "difference_pairs"]
    rows: List[Sequence[object]] = [[*header, "runs"]]
    for dataset, lines in tables.items():
        for line in lines:
            runs = line.entry.runs
            row: List[object] = [dataset, line.entry.name, line.entry.source]
            row += [sum(run.state == "done" for run in runs), len(runs)]
            for name in layout.columns:
                cell = line.cells[name]
                row += [cell.mean, cell.spread, cell.count]
            paired = line.difference or Estimate(None, None, 0)
            row += [line.gap, paired.mean, paired.spread, paired.count, runs_text(runs)]
            rows.append(row)
    return _csv(rows)


def format_runs_csv(entries: Sequence[Entry]) -> str:
    """Every run with every metric, as input for other statistics."""
    metrics = sorted({m for e in entries for r in e.runs for v in r.metrics.values() for m in v})
    rows: List[Sequence[object]] = [
        ["row", "seed", "state", "detail", "steps", "best_step", "dataset", *metrics]
    ]
    for entry in entries:
        for run in entry.runs:
            start = [entry.name, run.seed, run.state, run.detail, run.steps, run.best_step]
            for dataset, values in (run.metrics or {"": {}}).items():
                rows.append([*start, dataset, *(values.get(name, "") for name in metrics)])
    return _csv(rows)


def _what(run: Run) -> str:
    detail = run.detail
    if len(detail) > _LONGEST_REASON:
        detail = detail[: _LONGEST_REASON - 1] + "…"
    if not detail:
        return run.state
    return f"{run.state}: {detail}" if run.state == "failed" else f"{run.state} {detail}"


def _estimate(value: Estimate, sign: str = "") -> str:
    if value.mean is None:
        return ""
    spread = "" if value.spread is None else f" ± {value.spread:.1f}"
    return f"{value.mean:{sign}.1f}{spread} ({value.count})"


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
