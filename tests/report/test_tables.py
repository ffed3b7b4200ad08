"""The numbers of a results table, against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import math
from typing import Any, Dict

import pytest

from ssod.report.statistics import gap_closed, mean_and_deviation, paired_difference
from ssod.report.sweep_figure import draw_sweep
from ssod.report.tables import (
    Entry,
    Layout,
    Run,
    format_csv,
    format_markdown,
    format_runs_csv,
    runs_text,
    summarise,
    unknown_metrics,
)

NAN = float("nan")


def done(seed: int, ap: float, **more: float) -> Run:
    metrics: Dict[str, Any] = {
        "test": {"AP": ap, **{k.replace("_", "-"): v for k, v in more.items()}}
    }
    return Run(seed, "done", "", metrics, 800, 600)


def test_mean_and_deviation() -> None:
    found = mean_and_deviation([2.0, 4.0, 9.0])  # deviations -3, -1, 4: 26 / 2 = 13
    assert (found.mean, found.count) == (5.0, 3)
    assert found.spread == pytest.approx(math.sqrt(13))
    assert mean_and_deviation([NAN, 7.0]) == mean_and_deviation([7.0])
    assert (mean_and_deviation([7.0]).mean, mean_and_deviation([7.0]).spread) == (7.0, None)
    assert (mean_and_deviation([NAN]).mean, mean_and_deviation([]).count) == (None, 0)


def test_paired_difference_uses_shared_seeds_only() -> None:
    # Seeds 1, 2, 3: differences 1, 2, 3; deviation 1, standard error 1 / sqrt(3). Seeds 4 and 5
    # have no partner.
    found = paired_difference({1: 11, 2: 22, 3: 33, 4: 99}, {1: 10, 2: 20, 3: 30, 5: 0})
    assert (found.mean, found.count) == (2.0, 3)
    assert found.spread == pytest.approx(1 / math.sqrt(3))
    assert paired_difference({1: 5.0}, {1: 3.0}).spread is None
    assert paired_difference({1: 5.0}, {2: 3.0}).mean is None
    assert paired_difference({1: 5.0, 2: NAN}, {1: 3.0, 2: 1.0}).count == 1


@pytest.mark.parametrize(
    "value, baseline, upper, expected",
    [
        (45.0, 40.0, 60.0, 25.0),
        (30.0, 40.0, 60.0, -50.0),
        (60.0, 40.0, 60.0, 100.0),
        (45.0, None, 60.0, None),
        (None, 40.0, 60.0, None),
        (45.0, 60.0, 60.0, None),
        (45.0, 60.0, 40.0, None),
    ],
)
def test_gap_closed(value: Any, baseline: Any, upper: Any, expected: Any) -> None:
    assert gap_closed(value, baseline, upper) == expected


@pytest.fixture
def entries() -> list:
    return [
        Entry("sup", "sup.yaml", [done(1, 38, AP_8=2, AP_9=4), done(2, 42, AP_8=6, AP_9=NAN)]),
        Entry("ours", "ours.yaml", [done(1, 45), Run(2, "failed", "out | memory")]),
        Entry("all", "all.yaml", [done(1, 60), Run(2, "unfinished", "at step 40/800")]),
        Entry("later", "later.yaml", [Run(1), Run(2)]),
    ]


LAYOUT = Layout({"AP": ["AP"], "rarest": ["AP-8", "AP-9"]}, "sup", "all")


def test_markdown(entries: list) -> None:
    text = format_markdown(summarise(entries, "test", LAYOUT), LAYOUT)
    assert text.splitlines() == [
        "|  | runs | AP | rarest | gap closed | AP − sup |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| sup | 2 of 2 | 40.0 ± 2.8 (2) | 3.0 (1) | 0 % |  |",
        "| ours | 1 of 2 (seed 2 failed: out \\| memory) | 45.0 (1) |  | 25 % | +7.0 (1) |",
        "| all | 1 of 2 (seed 2 unfinished at step 40/800) | 60.0 (1) |  | 100 % | +22.0 (1) |",
        "| later | not run |  |  |  |  |",
    ]


def test_markdown_without_ends(entries: list) -> None:
    layout = Layout({"AP": ["AP"]})
    assert format_markdown(summarise(entries, "test", layout), layout).startswith(
        "|  | runs | AP |\n"
    )
    # An end that has no run leaves its column blank.
    layout = Layout({"AP": ["AP"]}, "sup", "later")
    lines = summarise(entries, "test", layout)
    assert [line.gap for line in lines] == [None] * 4
    assert summarise(entries[3:], "test", Layout({"AP": ["AP"]}, "later"))[0].difference is None


def test_runs_text() -> None:
    failed = [Run(1, "failed", "no data"), Run(2, "failed", "no data")]
    assert runs_text(failed) == "failed: no data"
    assert runs_text([Run(1, "failed", "a"), Run(2)]) == "0 of 2 (seed 1 failed: a; seed 2 not run)"
    assert runs_text([done(1, 3)]) == "1 of 1"
    assert len(runs_text([Run(1, "failed", "x" * 999)])) < 200


def test_csv(entries: list) -> None:
    text = format_csv({"test": summarise(entries, "test", LAYOUT)}, LAYOUT)
    sup, ours, _, later = csv.DictReader(io.StringIO(text))
    assert (sup["AP_mean"], sup["AP_n"], sup["difference_mean"]) == ("40.0", "2", "")
    assert float(sup["AP_std"]) == pytest.approx(math.sqrt(8))
    assert (ours["runs_done"], ours["runs_asked"], ours["gap_closed_percent"]) == ("1", "2", "25.0")
    assert (ours["difference_mean"], ours["difference_se"], ours["AP_std"]) == ("7.0", "", "")
    assert (later["AP_mean"], later["gap_closed_percent"], later["runs"]) == ("", "", "not run")
    runs = list(csv.DictReader(io.StringIO(format_runs_csv(entries))))
    assert len(runs) == 8
    assert (runs[1]["AP"], runs[1]["AP-8"], runs[1]["best_step"]) == ("42", "6", "600")
    assert (runs[3]["state"], runs[3]["detail"], runs[3]["AP"]) == ("failed", "out | memory", "")


def test_unknown_metrics(entries: list) -> None:
    assert unknown_metrics(entries, LAYOUT) == ([], ["AP", "AP-8", "AP-9"])
    assert unknown_metrics(entries, Layout({"x": ["AP", "AP-7"]}))[0] == ["AP-7"]
    assert unknown_metrics(entries[3:], Layout({"x": ["AP-7"]})) == ([], [])


def test_figure(entries: list) -> None:
    for tables in ({"test": summarise(entries, "test", LAYOUT)}, {"": summarise([], "", LAYOUT)}):
        file = io.BytesIO()
        draw_sweep(tables, LAYOUT, file)
        assert file.getvalue().startswith(b"\x89PNG")
