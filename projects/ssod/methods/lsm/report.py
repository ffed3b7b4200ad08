"""LSM's part of the report: boxes mined, RoIs distilled, IoU by size and score (Fig. 1)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ssod.plotting.charts import Bars, Line, bar_chart, line_chart
from ssod.plotting.run_data import RunData
from ssod.plotting.section import (
    Section,
    grid,
    heading,
    join,
    note,
    number,
    remark,
    run_colour,
    table,
)


def pim_section(run: RunData) -> Optional[Section]:
    """The section, or None before mutual learning."""
    charts = [
        line_chart(title, [Line(key, run.series(f"pim/{key}"), run_colour(0))], low=0.0)
        for key, title in (
            ("mined_boxes", "Boxes mined between alpha and t, per step"),
            ("foreground_rois_per_image", "PIM's foreground RoIs per image"),
            ("distilled_rois_per_image", "Distilled RoIs per image"),
            ("matched_queries_per_image", "Queries matched with PIM's labels, per image"),
            ("distilled_queries_per_image", "Distilled queries per image"),
        )
    ]
    charts = [chart for chart in charts if chart]
    if not charts:
        return None
    return Section("LSM: low-confidence samples", grid(charts) + _iou_by_size(run))


def _iou_by_size(run: RunData) -> str:
    """Mean IoU of the teacher's boxes with the truth at the last measurement, with a group of bars
    for each size.
    """
    measured = [record for record in run.quality.values() if "iou_by_size" in record]
    if not measured:
        return note("No truth of the unlabelled images is declared: no IoU by size.")
    record = measured[-1]
    rows: List[Dict[str, Any]] = record["iou_by_size"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    intervals = list(dict.fromkeys((row["low"], row["high"]) for row in rows))
    found = {(row["size"], row["low"]): row for row in rows}
    bars = [
        Bars(
            f"score {low:g} to {high:g}",
            [found[size, low]["mean_iou"] for size in sizes],
            run_colour(index),
        )
        for index, (low, high) in enumerate(intervals)
    ]
    chart = bar_chart("Mean IoU with the truth, by size and score", sizes, bars, maximum=1.0)
    headers = ["boxes"] + [f"{low:g} to {high:g}" for low, high in intervals]
    cells = [
        [size, *(number(found[size, low]["count"], 0) for low, _ in intervals)] for size in sizes
    ]
    meaning = remark(
        "IoU with the nearest true box of the same class, 0 where there is none. Small: under "
        "32 x 32 pixels, large: 96 x 96 and more."
    )
    head = heading(f"Teacher's boxes at step {record['step']}")
    return join([head, meaning, grid([chart, table(headers, cells)])])
