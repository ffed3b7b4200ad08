"""Charts as inline SVG and HTML: no script, no font, no file beside the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from ssod.plotting.run_data import Points
from ssod.plotting.section import legend, number, text

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 26
_MOST_POINTS = 250
_MOST_MARKERS = 40


@dataclass
class Line:
    """One curve; a dashed one belongs to the solid one of its colour."""

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
) -> str:
    """A chart over steps; empty where no line has a point.

    Args:
        low, high: ends of the y axis that do not follow the data. marks: (step, label) of vertical
            lines.
        with_legend: False where one legend serves several charts.
    """
    lines = [Line(x.label, thin_out(x.points), x.colour, x.dashed) for x in lines if x.points]
    if not lines:
        return ""
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    last = max(steps)
    # A run that branched off another one has nothing at the left.
    first = min(steps) if min(steps) > last / 2 and len(set(steps)) > 1 else 0
    bottom, top = _value_range(values, low, high)

    def x(step: float) -> float:
        return _LEFT + (step - first) / max(1, last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (min(max(value, bottom), top) - bottom) / (top - bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in ticks(bottom, top):
        parts.append(
            f"<line class=rule x1={_LEFT} x2={_WIDTH - _RIGHT} y1={y(tick):.1f} y2={y(tick):.1f} />"
            f"<text x={_LEFT - 5} y={y(tick) + 4:.1f} text-anchor=end>{tick:.4g}</text>"
        )
    for tick in ticks(first, last, 5):
        if tick == int(tick):
            anchor = "end" if x(tick) > _WIDTH - 30 else "middle"
            label = f"{tick / 1000:g}k" if tick >= 10_000 else f"{tick:g}"
            parts.append(
                f"<text x={x(tick):.1f} y={_HEIGHT - 8} text-anchor={anchor}>{label}</text>"
            )
    for step, label in marks:
        if first <= step <= last:
            parts.append(
                f"<line class=mark x1={x(step):.1f} x2={x(step):.1f} y1={_TOP} y2={_HEIGHT - _BOTTOM}>"
                f"<title>{text(label)}</title></line>"
            )
    for line in lines:
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line.points)
        dash = " stroke-dasharray='5 4'" if line.dashed else ""
        parts.append(
            f"<polyline points='{path}' fill=none stroke='{line.colour}' stroke-width=2{dash} />"
        )
        if len(line.points) <= _MOST_MARKERS:
            parts += [
                f"<circle cx={x(step):.1f} cy={y(value):.1f} r=3 fill='{'#fff' if line.dashed else line.colour}' stroke='{line.colour}'>"
                f"<title>{text(line.label)}, step {step}: {value:.4g}</title></circle>"
                for step, value in line.points
            ]
    keys = [(line.label, line.colour, line.dashed) for line in lines]
    return (
        f"<figure class=chart><figcaption>{text(title)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{text(title)}'>{''.join(parts)}</svg>"
        + (legend(keys) if with_legend and len(keys) > 1 else "")
        + "</figure>"
    )


def thin_out(points: Points, most: int = _MOST_POINTS) -> Points:
    """At most `most` points: means over equal runs of neighbours, each at its last step."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(chunk[-1][0], sum(v for _, v in chunk) / len(chunk)) for chunk in chunks]


def ticks(low: float, high: float, count: int = 4) -> List[float]:
    """Round numbers between `low` and `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.799)
    start = math.ceil(low / step - 1e-9)
    return [i * step for i in range(start, math.floor(high / step + 1e-9) + 1)]


def _value_range(
    values: Sequence[float], low: Optional[float], high: Optional[float]
) -> Tuple[float, float]:
    ordered = sorted(values)
    bottom = ordered[0] if low is None else low
    top = ordered[-1]
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    if len(ordered) > 20 and usual > 0 and top > 3 * usual:
        top = 1.5 * usual  # a spike, mostly the first steps', would flatten everything else
    top = top if high is None else high
    if not top > bottom:
        top = bottom + (abs(bottom) * 0.1 or 1.0)
    return bottom, top + (top - bottom) * (0.04 if high is None else 0.0)


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
) -> str:
    """Horizontal bars, grouped by row.

    Args:
        rows: labels. maximum: the value of a full bar; the largest one if None.
    """
    finite = [v for bars in series for v in bars.values if v is not None and math.isfinite(v)]
    if not finite:
        return ""
    full = max(finite) if maximum is None else maximum
    body = []
    for index, label in enumerate(rows):
        cells = []
        for bars in series:
            value = bars.values[index]
            shown = value if value is not None and math.isfinite(value) else 0.0
            width = 100 * min(1.0, shown / full) if full > 0 else 0.0
            cells.append(
                f"<div class=bar title='{text(bars.label)}'><u><i style='width:{width:.1f}%;background:{bars.colour}'>"
                f"</i></u><span>{number(value, digits)}</span></div>"
            )
        body.append(f"<div class=row><b>{text(label)}</b><div>{''.join(cells)}</div></div>")
    keys = [(bars.label, bars.colour, False) for bars in series]
    return (
        f"<figure class=chart><figcaption>{text(title)}</figcaption>"
        + (legend(keys) if len(keys) > 1 else "")
        + f"<div class='bars{' tall' if len(rows) > 30 else ''}'>{''.join(body)}</div></figure>"
    )
