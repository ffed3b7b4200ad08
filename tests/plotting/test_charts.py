"""Charts and tables: contents of the figures, ranges and gaps."""

from __future__ import annotations

import html
import json
import re
from typing import Any, Dict

import pytest

from ssod.plotting.charts import Bars, Line, bar_chart, line_chart, thin_out
from ssod.plotting.pictures import Card, Shot, data_uri, pictures
from ssod.plotting.section import boxed, join, legend, listing, number, table


def figure(chart: str) -> Dict[str, Any]:
    """The figure that a chart's HTML holds; NaN is no JSON."""
    found = re.search(r'<script type="application/json">\s*(.*?)</script>', chart, re.DOTALL)
    assert found is not None

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content: Dict[str, Any] = json.loads(found.group(1), parse_constant=refuse)
    return content


def keys(content: str) -> list[str]:
    """The labels of a legend's buttons."""
    return [html.unescape(label) for label in re.findall(r'data-line="(.*?)"', content)]


def test_thin_out_keeps_means_and_last_steps() -> None:
    points = [(step, float(step)) for step in range(1, 7)]
    assert thin_out(points, 3) == [(2, 1.5), (4, 3.5), (6, 5.5)]
    assert thin_out(points, 6) == points


def test_line_chart() -> None:
    lines = [Line("a", [(0, 0.0), (100, 1 / 3)], "red"), Line("b", [(50, 0.5)], "blue", True)]
    chart = line_chart("AP & more", lines, low=0.0, high=1.0, marks=[(10, "end"), (200, "off")])
    content = figure(chart)
    first, second = content["data"]
    assert (first["x"], first["y"]) == ([0, 100], [0.0, 0.33333])
    assert (first["meta"], first["line"]["color"]) == ("a", "red")
    assert "dash" not in first["line"] and second["line"]["dash"] == "dash"
    # 2 and 4 % of room at the ends.
    assert content["layout"]["yaxis"]["range"] == pytest.approx([-0.02, 1.04])
    assert content["layout"]["xaxis"]["range"] == pytest.approx([-2, 102])
    assert [shape["x0"] for shape in content["layout"]["shapes"]] == [10]
    assert keys(chart) == ["a", "b"] and "AP &amp; more</figcaption>" in chart


def test_a_single_line_needs_no_legend() -> None:
    assert keys(line_chart("AP", [Line("a", [(1, 1.0)], "red")])) == []
    two = [Line("a", [(1, 1.0)], "red"), Line("b", [(1, 1.0)], "red")]
    assert keys(line_chart("AP", two, with_legend=False)) == []
    assert keys(legend([("x", "red", False), ("y", "red", True)])) == ["x", "y"]


def test_a_spike_does_not_flatten_the_rest() -> None:
    points = [(step, 1.0) for step in range(1, 100)] + [(100, 1000.0)]
    content = figure(line_chart("loss", [Line("a", points, "red")], low=0.0))
    assert content["layout"]["yaxis"]["range"][1] < 2
    assert max(content["data"][0]["y"]) == 1000


def test_a_branch_starts_where_it_left() -> None:
    points = [(900, 1.0), (1000, 2.0)]
    low, high = figure(line_chart("AP", [Line("a", points, "red")]))["layout"]["xaxis"]["range"]
    assert 890 < low < 900 and 1000 < high < 1010


def test_charts_without_points_are_empty() -> None:
    assert line_chart("AP", [Line("a", [], "red")]) == ""
    assert bar_chart("AP", ["a"], [Bars("x", [float("nan")], "red")]) == ""


@pytest.mark.parametrize("points", [[(5, 2.0)], [(0, 0.0)], [(1, -3.0), (2, -3.0)]])
def test_degenerate_lines_have_a_range(points: list[tuple[int, float]]) -> None:
    layout = figure(line_chart("x", [Line("a", points, "red")]))["layout"]
    for axis in ("xaxis", "yaxis"):
        low, high = layout[axis]["range"]
        assert low < high
    assert layout["yaxis"]["range"][0] <= points[0][1] <= layout["yaxis"]["range"][1]


def test_bars() -> None:
    series = [Bars("run", [0.5, float("nan"), None], "red")]
    content = figure(bar_chart("recall", ["cat", "dog", "cow"], series, maximum=2.0))
    (bars,) = content["data"]
    assert bars["x"] == [0.5, None, None] and bars["text"] == ["0.50", "–", "–"]
    assert bars["customdata"] == ["cat", "dog", "cow"]
    # Rows from the top down; a full bar leaves room for its number.
    low, high = content["layout"]["yaxis"]["range"]
    assert low > high and content["layout"]["xaxis"]["range"][1] > 2.0


def test_rows_of_one_name_stay_apart() -> None:
    content = figure(bar_chart("recall", ["8", "8"], [Bars("run", [0.5, 0.25], "red")]))
    assert content["data"][0]["y"] == [0, 1]
    assert content["layout"]["yaxis"]["ticktext"] == ["8", "8"]


def test_everything_is_escaped() -> None:
    evil = "</script><script>alert('1')</script>"
    lines = [Line(evil, [(1, 1.0)], "red"), Line("b", [(1, 2.0)], "blue")]
    parts = [
        line_chart(evil, lines),
        bar_chart(evil, [evil], [Bars(evil, [1.0], "red"), Bars("b", [1.0], "blue")]),
        table([evil], [[evil, evil]]),
        listing([evil]),
        boxed("grid", [evil]),
        pictures([Card([Shot(evil, data_uri(b"x"))], evil, [evil])]),
    ]
    page = join(parts)
    assert "<script>" not in page and page.count("</script>") == 2
    # Plotly reads tags in its texts, so that they are escaped in the figure too; the switch and
    # the table of numbers need the name as it is.
    content = figure(parts[0])
    assert "<" not in content["data"][0]["name"] and content["data"][0]["meta"] == evil
    assert keys(parts[0])[0] == evil


def test_number() -> None:
    assert [number(v) for v in (1.25, None, float("nan"))] == ["1.2", "–", "–"]
