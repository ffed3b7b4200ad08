"""The hosts' part of the report: one chart for each scalar."""

from __future__ import annotations

from typing import Mapping, Optional

from ssod.plotting.charts import Line, line_chart
from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section, grid, run_colour


def scalar_section(
    run: RunData, heading: str, prefix: str, titles: Mapping[str, str]
) -> Optional[Section]:
    """Charts of `<prefix>/<key>` over the run, with titles by key. None if the run has written none
    of them.
    """
    charts = [
        line_chart(
            title,
            [Line(key, run.series(f"{prefix}/{key}"), run_colour(0))],
            low=0.0,
            with_legend=False,
        )
        for key, title in titles.items()
    ]
    charts = [chart for chart in charts if chart]
    return Section(heading, grid(charts)) if charts else None
