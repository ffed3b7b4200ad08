"""Charts and tables: positions, ticks and gaps."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from ssod.plotting.charts import Bars, Line, bar_chart, line_chart, thin_out, ticks
from ssod.plotting.section import number, table, text


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 40, [0, 10, 20, 30, 40]),
        (0.013, 0.055, [0.02, 0.03, 0.04, 0.05]),
        (3, 3, [3]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_thin_out_keeps_means_and_last_steps() -> None:
    points = [(step, float(step)) for step in range(1, 7)]
    assert thin_out(points, 3) == [(2, 1.5), (4, 3.5), (6, 5.5)]
    assert thin_out(points, 6) == points


def test_line_chart_positions() -> None:
    chart = line_chart("AP", [Line("a", [(0, 0.0), (100, 1.0)], "red")], low=0.0, high=1.0)
    found = re.search(r"<polyline points='([^']*)'", chart)
    assert found is not None
    # The plot's area is 46..408 by 10..224.
    assert found.group(1) == "46.0,224.0 408.0,10.0"
    assert "step 100: 1" in chart and "class=legend" not in chart


def test_values_outside_the_axis_are_drawn_at_its_end() -> None:
    points = [(step, 1.0) for step in range(1, 100)] + [(100, 1000.0)]
    chart = line_chart("loss", [Line("a", points, "red")], low=0.0)
    heights = [float(p.split(",")[1]) for p in re.findall(r"points='([^']*)'", chart)[0].split()]
    assert min(heights) >= 10 and heights[0] < 224 - 100  # the spike does not flatten the rest


def test_charts_without_points_are_empty() -> None:
    assert line_chart("AP", [Line("a", [], "red")]) == ""
    assert bar_chart("AP", ["a"], [Bars("x", [float("nan")], "red")]) == ""


@pytest.mark.parametrize("points", [[(5, 2.0)], [(0, 0.0)], [(1, -3.0), (2, -3.0)]])
def test_degenerate_lines_have_finite_coordinates(points: list[tuple[int, float]]) -> None:
    chart = line_chart("x", [Line("a", points, "red")])
    assert "nan" not in chart and "inf" not in chart


def test_bars() -> None:
    chart = bar_chart(
        "recall", ["cat", "dog"], [Bars("run", [0.5, float("nan")], "red")], maximum=2.0
    )
    assert "width:25.0%" in chart and "width:0.0%" in chart and ">–<" in chart


def test_everything_is_escaped() -> None:
    evil = "<script>alert('1')</script>"
    chart = line_chart(evil, [Line(evil, [(1, 1.0)], "red"), Line("b", [(1, 2.0)], "blue")])
    bars = bar_chart(evil, [evil], [Bars(evil, [1.0], "red"), Bars("b", [1.0], "blue")])
    assert "<script" not in chart + bars
    assert "<script" not in table([text(evil)], [[text(evil)]])


def test_number() -> None:
    assert [number(v) for v in (1.25, None, float("nan"))] == ["1.2", "–", "–"]


def test_svg_is_well_formed() -> None:
    lines = [Line("a & b", [(1, 1.0), (2, 3.0)], "red", True), Line("c", [(1, 2.0)], "blue")]
    chart = line_chart("t", lines, marks=[(1, "burn-in")])
    svg = re.search(r"<svg.*</svg>", chart)
    assert svg is not None
    # HTML allows attributes without quotes, XML does not.
    xml = re.sub(r"=([\w.-]+)(?=[ />])", r"='\1'", re.sub(r"<title>.*?</title>", "", svg.group(0)))
    assert len(ElementTree.fromstring(xml).findall("polyline")) == 2
