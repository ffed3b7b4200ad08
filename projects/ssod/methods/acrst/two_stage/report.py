"""The two-stage filter's part of the report: what the image-level module lets through."""

from __future__ import annotations

from typing import Dict, List, Optional

from ssod.plotting.charts import Bars, Line, bar_chart, line_chart
from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section, grid, number, run_colour, table, text

# Bars of more classes than this would be a page of their own; the table has them all.
_MOST_BARS = 80
_PREFIX = "two_stage_filter/"


def _latest(run: RunData, kind: str) -> Dict[str, float]:
    """The last value of each class's scalar `two_stage_filter/<kind>/<class>`."""
    prefix = f"{_PREFIX}{kind}/"
    names = [key[len(prefix) :] for key in run.keys() if key.startswith(prefix)]
    values = {name: run.series(prefix + name) for name in names}
    return {name: points[-1][1] for name, points in values.items() if points}


def two_stage_section(run: RunData) -> Optional[Section]:
    """Labels per image after either stage over training, and per class at the end; None before mutual learning."""
    first, kept = (run.series(f"{_PREFIX}{key}_per_image") for key in ("first_stage", "kept"))
    if not first:
        return None
    mining = run.get("SSOD.TWO_STAGE_FILTER.MODE") == "mine"
    lines = [
        Line("first stage (score)", first, run_colour(0), dashed=True),
        Line("either stage" if mining else "both stages", kept, run_colour(0)),
    ]
    charts = [line_chart("Labels per image", lines, low=0.0)]
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
        rows.append([text(name), *(number(value, digits) for value, digits in values)])
    headers = [
        "",
        "active, % of images",
        "first stage, per image",
        "in the end, per image",
        "change, %",
    ]
    remark = (
        "<p class=soft>Of unlabelled images in training, most recent steps. Active: the image-level activation reaches "
        "its threshold. First stage: the score does. In the end: what the main branch trains on.</p>"
    )
    return Section("Two-stage filter", remark + grid(charts) + table(headers, rows, tall=True))
