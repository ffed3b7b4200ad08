"""The sections of the report.

Each takes the runs and returns None where they have nothing to show.
"""

from __future__ import annotations

import math
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ssod.errors import UserError
from ssod.plotting.charts import Bars, Line, bar_chart, line_chart
from ssod.plotting.markup import part
from ssod.plotting.run_data import RunData
from ssod.plotting.section import (
    TRUTH_COLOUR,
    Section,
    boxed,
    fold,
    grid,
    heading,
    join,
    legend,
    listing,
    note,
    number,
    remark,
    run_colour,
    strong,
    table,
    unique,
)

# A bar chart of more classes shows the most frequent and the rarest half of so many.
_MOST_CLASSES = 80


def warning_section(runs: Sequence[RunData]) -> Optional[Section]:
    """The log's warnings; a repeated warning is listed once with its count."""
    items = []
    for run in runs:
        seen: Dict[str, List[str]] = {}
        for when, message in run.warnings:
            seen.setdefault(message, []).append(when)
        for message, times in list(seen.items())[:50]:
            often = f" ({len(times)} times)" if len(times) > 1 else ""
            line = f"{times[-1]}{often}: {message}"
            items.append(join([strong(run.name), ", ", line]) if len(runs) > 1 else line)
    return Section("Warnings", boxed("warn", [listing(items)])) if items else None


def ap_section(runs: Sequence[RunData]) -> Section:
    """AP of teacher and student over training, a chart for each evaluated dataset."""
    pattern = re.compile(r"(?:(.+)/)?(teacher|student)/(?:bbox/(AP|AP50|AR)|(segm/AP))")
    found: Dict[Tuple[str, str], List[Line]] = {}
    for index, run in enumerate(runs):
        names = run.get("DATASETS.VAL") or run.get("DATASETS.TEST") or [""]
        for key in sorted(run.keys(), key=lambda k: "student" in k):
            match = pattern.fullmatch(key)
            if match:
                dataset, role = match.group(1) or names[0], match.group(2)
                metric = match.group(3) or match.group(4)
                label = role if len(runs) == 1 else f"{run.name}, {role}"
                line = Line(label, run.series(key), run_colour(index), role == "student")
                found.setdefault((dataset, metric), []).append(line)
    charts = [
        line_chart(
            f"{metric} on {dataset}" if dataset else metric,
            lines,
            low=0.0,
            marks=_burn_in(runs),
            with_legend=False,
        )
        for (dataset, metric), lines in sorted(found.items())
    ]
    if not any(charts):
        return Section("Average precision", note("No evaluation yet."))
    body = shared_legend([line for lines in found.values() for line in lines]) + grid(charts)
    if _burn_in(runs):
        body += remark("The dotted line is the end of burn-in.")
    return Section("Average precision", body)


def shared_legend(lines: Sequence[Line]) -> str:
    """One legend for a section's charts; nothing for a single line."""
    keys = {line.label: (line.label, line.colour, line.dashed) for line in lines if line.points}
    return legend(list(keys.values())) if len(keys) > 1 else join([])


def class_ap_section(runs: Sequence[RunData]) -> Optional[Section]:
    """A table of all metrics of the best teacher, a column for each run and dataset.

    The best of a row is bold where all were measured on the same dataset.
    """
    columns = [
        (run, dataset, how, metrics)
        for run in runs
        for (dataset, how), metrics in run.measured_ap().items()
    ]
    if not columns:
        return None
    comparable = len(columns) > 1 and len({dataset for _, dataset, _, _ in columns}) == 1
    names = unique([name for _, _, _, metrics in columns for name in metrics])
    names.sort(key=lambda name: "AP-" in name)  # single classes last
    headers = ["AP in %"] + [
        part("lines", run.name if len(runs) > 1 else "", dataset, how)
        for run, dataset, how, _ in columns
    ]
    rows = []
    for name in names:
        values = [metrics.get(name, math.nan) for _, _, _, metrics in columns]
        best = max((v for v in values if math.isfinite(v)), default=None) if comparable else None
        group = name in ("AP-majority", "AP-minority")
        label = f"class {name[3:]}" if name.startswith("AP-") and not group else name
        if name.startswith("segm/AP-"):
            label = f"class {name[8:]}, masks"
        cells = [strong(number(v)) if v == best else number(v) for v in values]
        rows.append([label, *cells])
    classes = [name for name in names if name.startswith("AP-")][:_MOST_CLASSES]
    bars = [
        Bars(f"{run.name}, {dataset}", [m.get(c) for c in classes], run_colour(runs.index(run)))
        for run, dataset, _, m in columns
    ]
    chart = bar_chart("AP of each class", [name[3:] for name in classes], bars, digits=1)
    kind = "halves" if len(columns) < 3 else "stacked"
    body = boxed(kind, [table(headers, rows, tall=len(rows) > 30), chart])
    return Section("AP per class", body)


def pseudo_label_section(runs: Sequence[RunData]) -> Optional[Section]:
    """How many pseudo-labels there are and how good they are, over training and per class."""
    several = len(runs) > 1
    counts: List[Line] = []
    for index, run in enumerate(runs):
        for key, what in (("boxes_per_image", "selected"), ("candidates_per_image", "candidates")):
            label = f"{run.name}, {what}" if several else what
            points = run.series(f"pseudo/{key}")
            counts.append(Line(label, points, run_colour(index), what == "candidates"))
    measures = (
        ("precision", "Precision of pseudo-labels", 1.0),
        ("recall", "Recall of pseudo-labels", 1.0),
        ("mean_iou", "Mean IoU of the right pseudo-labels", 1.0),
        ("mask_iou", "Mean IoU of their masks", 1.0),
        ("kl", "KL(truth ‖ pseudo-labels) of the classes, nats", None),
    )
    charts = [line_chart("Pseudo-boxes per image", counts, low=0.0, with_legend=False)]
    everything = list(counts)
    for key, title, high in measures:
        lines = []
        for index, run in enumerate(runs):
            for labels in ("selected", "candidates"):
                label = f"{run.name}, {labels}" if several else labels
                points = run.quality_series(key, labels)
                lines.append(Line(label, points, run_colour(index), labels == "candidates"))
        charts.append(line_chart(title, lines, low=0.0, high=high, with_legend=False))
        everything += lines
    charts = [chart for chart in charts if chart]
    if not charts:
        return None
    body = remark(
        "Selected: what the main branch trains on. Candidates (dashed): all that the teacher "
        "detects. A pseudo-label is right if it overlaps a true box of its class with IoU ≥ 0.5, "
        "one to one."
    )
    measured = [(i, run, _latest_quality(run)) for i, run in enumerate(runs)]
    measured = [(i, run, record) for i, run, record in measured if record]
    body += shared_legend(everything) + grid(charts)
    body += (
        _class_quality(measured)
        if measured
        else note("No truth is declared, or nothing was measured yet.")
    )
    return Section("Pseudo-labels", body)


def _latest_quality(run: RunData) -> Dict[str, Any]:
    found = [record for record in run.quality.values() if "selected" in record]
    return found[-1] if found else {}


def _class_quality(measured: Sequence[Tuple[int, RunData, Dict[str, Any]]]) -> str:
    first = measured[0][2]
    truth = {name: row["truth"] for name, row in first["selected"]["per_class"].items()}
    names, which = shown_classes(truth)

    def per_class(record: Dict[str, Any], key: str) -> List[Optional[float]]:
        rows = record["selected"]["per_class"]
        return [rows.get(name, {}).get(key) for name in names]

    def share(record: Dict[str, Any], key: str) -> List[Optional[float]]:
        total = sum(row[key] for row in record["selected"]["per_class"].values())
        return [100 * (v or 0.0) / total if total else None for v in per_class(record, key)]

    charts = []
    for key, title in (("precision", "Precision per class"), ("recall", "Recall per class")):
        bars = [
            Bars(run.name, per_class(record, key), run_colour(i)) for i, run, record in measured
        ]
        charts.append(bar_chart(title, names, bars, maximum=1.0))
    bars = [Bars("truth", share(first, "truth"), TRUTH_COLOUR)]
    for i, run, record in measured:
        label = f"{run.name} (KL {number(record['selected']['kl'], 3)})"
        bars.append(Bars(label, share(record, "count"), run_colour(i)))
    charts.append(bar_chart("Share of each class, %", names, bars, digits=1))
    headers = [
        "",
        "step",
        "images",
        "precision",
        "recall",
        "mean IoU",
        "KL",
        "labels",
        "true boxes",
    ]
    rows = []
    for i, run, record in measured:
        for labels in ("selected", "candidates"):
            row = record[labels]
            classes = row["per_class"].values()
            rows.append(
                [
                    f"{run.name}, {labels}" if len(measured) > 1 else labels,
                    str(record["step"]),
                    str(record["sampled_images"]),
                    *(number(row[key], 3) for key in ("precision", "recall", "mean_iou", "kl")),
                    number(sum(c["count"] for c in classes), 0),
                    number(sum(c["truth"] for c in classes), 0),
                ]
            )
    return join([heading(f"At the last measurement{which}"), table(headers, rows), grid(charts)])


def shown_classes(truth: Dict[str, float]) -> Tuple[List[str], str]:
    """The classes that a bar chart has room for, from the boxes of each, and a remark if these are
    not all.
    """
    if len(truth) <= _MOST_CLASSES:
        return list(truth), ""
    ordered = sorted(truth, key=lambda name: -truth[name])
    half = _MOST_CLASSES // 2
    chosen = ordered[:half] + ordered[-half:]
    return chosen, f" (of {len(truth)} classes the {half} most frequent and the {half} rarest)"


def loss_section(runs: Sequence[RunData]) -> Optional[Section]:
    """Every loss over training, then learning rate and speed."""

    def lines(key: str) -> List[Line]:
        return [Line(run.name, run.series(key), run_colour(i)) for i, run in enumerate(runs)]

    keys = unique([key for run in runs for key in run.keys()])
    losses = [key for key in keys if key.startswith("loss_") and key != "loss_scale"]
    charts = [line_chart("total_loss", lines("total_loss"), low=0.0, with_legend=False)]
    charts += [line_chart(key, lines(key), low=0.0, with_legend=False) for key in sorted(losses)]
    if not any(charts):
        return None
    others = [
        line_chart(title, lines(key), low=0.0, with_legend=False)
        for key, title in (
            ("lr", "Learning rate"),
            ("time", "Seconds per step"),
            ("data_time", "Seconds of waiting for data, per step"),
        )
    ]
    head = shared_legend(lines("total_loss"))
    return Section("Losses", head + grid(charts) + fold("Learning rate and speed", grid(others)))


def activity_section(runs: Sequence[RunData]) -> Optional[Section]:
    """How much each method changed in each step: a chart a method (`Method.activity`)."""
    names = unique([name for run in runs for name in run.get("SSOD.METHODS") or []])
    charts, idle = [], []
    everything: List[Line] = []
    for name in names:
        lines = [
            Line(run.name, run.series(f"activity_mean/{name}"), run_colour(i))
            for i, run in enumerate(runs)
        ]
        title = f"{name}: {_activity_unit(name)}"
        charts.append(line_chart(title, lines, low=0.0, marks=_burn_in(runs), with_legend=False))
        everything += lines
        for line in lines:
            if line.points and not any(value for _, value in line.points):
                idle.append(f"{name} ({line.label})" if len(runs) > 1 else name)
    if not any(charts):
        return None
    parts = [shared_legend(everything)]
    parts += [note(f"Changed nothing so far: {', '.join(idle)}.")] if idle else []
    return Section("What the methods change", join([*parts, grid(charts)]))


def _activity_unit(name: str) -> str:
    from ssod.methods import get_method

    try:
        return get_method(name).activity_unit
    except UserError:  # of a user's own package, which this process has not imported
        return "activity"


def method_sections(runs: Sequence[RunData]) -> List[Section]:
    """The sections that each method adds for each run that used it (`Method.report_section`)."""
    if not any(run.get("SSOD.METHODS") for run in runs):
        return []
    from ssod.methods import get_method

    found = []
    for name in unique([name for run in runs for name in run.get("SSOD.METHODS") or []]):
        for run in runs:
            if name not in (run.get("SSOD.METHODS") or []):
                continue
            try:
                method = get_method(name)
            except UserError:  # of a user's own package, which this process has not imported
                break
            section = method.report_section(run)
            if section is not None:
                title = f"{section.title} ({run.name})" if len(runs) > 1 else section.title
                found.append(Section(title, section.html))
    return found


def _burn_in(runs: Sequence[RunData]) -> List[Tuple[int, str]]:
    ends = unique([str(run.burn_in_end) for run in runs if run.burn_in_end])
    return [(int(end), f"end of burn-in, step {end}") for end in ends]
