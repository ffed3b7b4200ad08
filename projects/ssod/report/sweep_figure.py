"""The results table as a picture: a row per config, a dot per seed and a bar at their mean."""

from __future__ import annotations

import math
from typing import IO, Any, Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssod.report.statistics import mean_and_deviation
from ssod.report.tables import MAIN_METRIC, Layout, Line, runs_text, values_by_seed


def draw_sweep(tables: Mapping[str, Sequence[Line]], layout: Layout, file: IO[bytes]) -> None:
    """Writes a PNG with one panel per dataset; dashed lines lead the eye from the baseline and the
    upper end.
    """
    rows = max((len(lines) for lines in tables.values()), default=0)
    # Not pyplot: no global state, and no display is looked for.
    figure = Figure(figsize=(8, (1.3 + 0.42 * rows) * max(1, len(tables))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(1, len(tables)), 1, squeeze=False)[:, 0]
    for panel, (dataset, lines) in zip(panels, tables.items()):
        _draw_panel(panel, dataset, lines, layout)
    figure.savefig(file, format="png", dpi=130)


def _draw_panel(axes: Any, dataset: str, lines: Sequence[Line], layout: Layout) -> None:
    colours = {layout.upper: "tab:green", layout.baseline: "tab:gray"}
    for place, line in enumerate(lines):
        values = values_by_seed(line.entry, dataset, [MAIN_METRIC]).values()
        finite = [value for value in values if math.isfinite(value)]
        mean = mean_and_deviation(finite).mean
        if mean is None:
            axes.text(0.01, place, runs_text(line.entry.runs)[:60], transform=axes.get_yaxis_transform(),
                      va="center", color="0.4", fontsize=9, style="italic")  # fmt: skip
            continue
        colour = colours.get(line.entry.name, "tab:blue")
        axes.barh(place, mean, height=0.62, color=colour, alpha=0.3)
        axes.plot([mean, mean], [place - 0.31, place + 0.31], color=colour, linewidth=2.5)
        # Spread over the bar's height, so that equal seeds do not hide each other.
        shifts = [(i - (len(finite) - 1) / 2) * 0.5 / len(finite) for i in range(len(finite))]
        axes.scatter(finite, [place + s for s in shifts], s=20, color=colour, edgecolors="black",
                     linewidths=0.6, zorder=3)  # fmt: skip
        axes.annotate(f"{mean:.1f}", (max(mean, *finite), place), xytext=(8, 0),
                      textcoords="offset points", va="center", fontsize=9,
                      bbox={"color": "white", "pad": 0.8})  # fmt: skip
        if line.entry.name in colours:
            axes.axvline(mean, color=colour, linestyle="--", linewidth=0.9, zorder=0)
    axes.set_yticks(range(len(lines)), [line.entry.name for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f"{MAIN_METRIC} on {dataset} (bar: mean, dots: seeds)" if dataset else MAIN_METRIC
    )
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
