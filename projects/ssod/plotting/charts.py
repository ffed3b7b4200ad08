"""Charts as Plotly figures, which the page's script draws (`ssod.report.page`).

A chart is a box of HTML that holds its figure as JSON. Nothing here needs Plotly.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from markupsafe import Markup

from ssod.plotting.markup import part
from ssod.plotting.run_data import Points
from ssod.plotting.section import number

_LINE_HEIGHT = 260
_MOST_POINTS = 250
_MOST_MARKERS = 40
# A chart of more rows scrolls in a box of its own.
_MOST_ROWS = 30


@dataclass
class Line:
    """One curve. A dashed curve belongs to the solid curve of its colour."""

    label: str
    points: Points
    colour: str
    dashed: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    low: Optional[float] = None,
    high: Optional[float] = None,
    marks: Sequence[Tuple[int, str]] = (),
    with_legend: bool = True,
) -> Markup:
    """A chart over steps; empty where no line has a point.

    Args:
        low, high: ends of the y axis that do not follow the data. marks: (step, label) of vertical
            lines.
        with_legend: False where one legend of the section serves several charts.
    """
    lines = [Line(x.label, thin_out(x.points), x.colour, x.dashed) for x in lines if x.points]
    if not lines:
        return Markup("")
    steps = [step for line in lines for step, _ in line.points]
    last = max(steps)
    # A run that branched off another one has nothing at the left.
    first = min(steps) if min(steps) > last / 2 and len(set(steps)) > 1 else 0
    bottom, top = _value_range([v for line in lines for _, v in line.points], low, high)
    margin = 0.02 * max(1, last - first)
    layout = {
        "hovermode": "x unified",
        "xaxis": {"range": [first - margin, max(last, first + 1) + margin]},
        "yaxis": {"range": [bottom, top]},
        "shapes": [
            {
                "type": "line",
                "x0": step,
                "x1": step,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "name": label,
                "line": {"dash": "dot", "width": 1.5},
            }
            for step, label in marks
            if first <= step <= last
        ],
    }
    figure = {"data": [_line_trace(line) for line in lines], "layout": layout}
    keys = [(line.label, line.colour, line.dashed) for line in lines]
    shown = keys if with_legend and len(keys) > 1 else []
    return part("chart", title, figure, _LINE_HEIGHT, shown, False)


def _line_trace(line: Line) -> Dict[str, Any]:
    few = len(line.points) <= _MOST_MARKERS
    return {
        "type": "scatter",
        "mode": "lines+markers" if few else "lines",
        "name": _plain(line.label),
        "meta": line.label,
        "x": [step for step, _ in line.points],
        "y": [float(f"{value:.5g}") for _, value in line.points],
        "line": {"color": line.colour, "width": 2, **({"dash": "dash"} if line.dashed else {})},
        "marker": {"size": 6, "symbol": "circle-open" if line.dashed else "circle"},
        "hovertemplate": "%{y:.4g}",
    }


def thin_out(points: Points, most: int = _MOST_POINTS) -> Points:
    """At most `most` points. Each is the mean of as many neighbours, at their last step."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(chunk[-1][0], sum(v for _, v in chunk) / len(chunk)) for chunk in chunks]


def _value_range(
    values: Sequence[float], low: Optional[float], high: Optional[float]
) -> Tuple[float, float]:
    ordered = sorted(values)
    bottom = ordered[0] if low is None else low
    top = ordered[-1]
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    if len(ordered) > 20 and usual > 0 and top > 3 * usual:
        top = 1.5 * usual  # a spike, usually of the first steps, would flatten the rest
    top = top if high is None else high
    if not top > bottom:
        top = bottom + (abs(bottom) * 0.1 or 1.0)
    margin = 0.04 * (top - bottom)  # so that no point lies on the frame
    return bottom - margin / 2, top + margin


@dataclass
class Bars:
    """One colour of a bar chart: a value per row; NaN or None draws nothing."""

    label: str
    values: Sequence[Optional[float]]
    colour: str


def bar_chart(
    title: str,
    rows: Sequence[str],
    series: Sequence[Bars],
    *,
    maximum: Optional[float] = None,
    digits: int = 2,
) -> Markup:
    """Horizontal bars, grouped by row.

    Args:
        rows: labels. maximum: the value of a full bar; the largest one if None.
    """
    finite = [v for bars in series for v in bars.values if v is not None and math.isfinite(v)]
    if not finite:
        return Markup("")
    full = max(finite) if maximum is None else maximum
    layout = {
        "hovermode": "y unified",
        "barmode": "group",
        # Room for the number at the end of a full bar.
        "xaxis": {"range": [min(0.0, *finite) * 1.18, (full or 1.0) * 1.18]},
        "yaxis": {
            "tickvals": list(range(len(rows))),
            "ticktext": [_shortened(name) for name in rows],
            "range": [len(rows) - 0.45, -0.55],
        },
    }
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": _plain(bars.label),
            "meta": bars.label,
            "y": list(range(len(rows))),
            "x": [_finite(value) for value in bars.values],
            "customdata": list(rows),
            "text": [number(value, digits) for value in bars.values],
            "textposition": "outside",
            "cliponaxis": False,
            "marker": {"color": bars.colour},
            "hovertemplate": f"%{{x:.{digits}f}}",
        }
        for bars in series
    ]
    keys = [(bars.label, bars.colour, False) for bars in series]
    height = 44 + len(rows) * (10 + 15 * len(series))
    shown = keys if len(keys) > 1 else []
    return part(
        "chart", title, {"data": data, "layout": layout}, height, shown, len(rows) > _MOST_ROWS
    )


def _finite(value: Optional[float]) -> Optional[float]:
    """JSON has no NaN."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def _plain(label: str) -> str:
    """Plotly reads some tags in a text."""
    return html.escape(label, quote=False)


def _shortened(label: str, most: int = 22) -> str:
    return _plain(label if len(label) <= most else label[: most - 1] + "…")
