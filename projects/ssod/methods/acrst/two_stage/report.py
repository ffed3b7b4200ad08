"""The two-stage filter's part of the report: the labels that pass each stage."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

from ssod.plotting.charts import Bars, Line, bar_chart, line_chart
from ssod.plotting.run_data import RunData
from ssod.plotting.section import (
    Section,
    grid,
    join,
    note,
    number,
    remark,
    run_colour,
    table,
)

# With more classes than this, the bars would fill a page of their own. The table has all classes.
_MOST_BARS = 80
_PREFIX = "two_stage_filter/"


def _latest(run: RunData, kind: str) -> Dict[str, float]:
    """The last value of each class's scalar `two_stage_filter/<kind>/<class>`."""
    prefix = f"{_PREFIX}{kind}/"
    names = [key[len(prefix) :] for key in run.keys() if key.startswith(prefix)]
    values = {name: run.series(prefix + name) for name in names}
    return {name: points[-1][1] for name, points in values.items() if points}


def two_stage_section(run: RunData) -> Optional[Section]:
    """Labels per image after either stage over training, and per class at the end. None before
    mutual learning.
    """
    first, kept = (run.series(f"{_PREFIX}{key}_per_image") for key in ("first_stage", "kept"))
    if not first:
        return None
    mining = run.get("SSOD.TWO_STAGE_FILTER.MODE") == "mine"
    lines = [
        Line("first stage (score)", first, run_colour(0), dashed=True),
        Line("either stage" if mining else "both stages", kept, run_colour(0)),
    ]
    charts: List[str] = [line_chart("Labels per image", lines, low=0.0)]
    active, passed, selected = (_latest(run, kind) for kind in ("active", "first_stage", "kept"))
    names = sorted(passed, key=lambda name: -passed[name])
    if len(names) <= _MOST_BARS:
        shares = Bars("active", [active.get(name) for name in names], run_colour(2))
        charts.append(
            bar_chart("Share of images in which a class is active", names, [shares], maximum=1.0)
        )
        change = [
            Bars("first stage", [passed[name] for name in names], run_colour(1)),
            Bars("in the end", [selected.get(name) for name in names], run_colour(0)),
        ]
        charts.append(bar_chart("Labels per image and class", names, change, digits=3))
    rows: List[List[str]] = []
    for name in names:
        before, after = passed[name], selected.get(name, float("nan"))
        share = 100 * (after / before - 1) if before else float("nan")
        values = (100 * active.get(name, float("nan")), 1), (before, 3), (after, 3), (share, 1)
        rows.append([name, *(number(value, digits) for value, digits in values)])
    headers = [
        "",
        "active, % of images",
        "first stage, per image",
        "in the end, per image",
        "change, %",
    ]
    charts += _head_charts(run, names)
    meaning = remark(
        "Of unlabelled images in training, most recent steps. Active: the image-level activation "
        "reaches its threshold. First stage: the score does. In the end: what the main branch "
        "trains on."
    )
    parts = [meaning, grid(charts), table(headers, rows, tall=True), _effect(run), _head_table(run)]
    return Section("Two-stage filter", join(parts))


def _head_charts(run: RunData, names: Sequence[str]) -> List[str]:
    """The image-level head on validation images: its AUC over training, and per class at the
    end.
    """
    auc = Line("AUC", run.series(f"{_PREFIX}head_auc"), run_colour(0))
    title = "AUC of the image-level head, mean over the classes (0.5: it knows nothing)"
    charts: List[str] = [line_chart(title, [auc], low=0.0, high=1.0)]
    latest = _latest(run, "head_auc")
    if latest and len(names) <= _MOST_BARS:
        own = [name for name in names if name in latest]
        bars = Bars("AUC", [latest[name] for name in own], run_colour(2))
        charts.append(bar_chart("AUC per class", own, [bars], maximum=1.0))
    return charts


def _head_table(run: RunData) -> str:
    kinds = ("auc", "calibration_error", "active", "present")
    columns = {kind: _latest(run, f"head_{kind}") for kind in kinds}
    if not columns["present"]:
        return note("Without DATASETS.VAL the image-level head is not measured.")
    rows = []
    for name in sorted(columns["present"], key=lambda n: -columns["present"][n]):
        values = [columns[kind].get(name, float("nan")) for kind in kinds]
        rows.append(
            [name, number(values[0], 3), number(values[1], 3)]
            + [number(100 * value, 1) for value in values[2:]]
        )
    headers = [
        "image-level head, validation images",
        "AUC",
        "calibration error",
        "active, %",
        "present, %",
    ]
    return table(headers, rows, tall=len(rows) > 30)


def _effect(run: RunData) -> str:
    """Precision and recall before and after the second stage, at the last measurement (Table 6)."""
    measured = [record for record in run.quality.values() if "first_stage" in record]
    if not measured:
        return ""
    record, names = measured[-1], ("first_stage", "selected")
    rows = []
    for name, label in zip(names, ("first stage", "in the end")):
        counts = record[name]["per_class"].values()
        labels = sum(row["count"] for row in counts)
        own = [number(record[name][key], 3) for key in ("precision", "recall", "mean_iou")]
        rows.append([label, *own, number(labels, 0)])
    headers = [
        f"labels at step {record['step']}",
        "precision",
        "recall",
        "mean IoU",
        "labels",
    ]
    return table(headers, rows)
