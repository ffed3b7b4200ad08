"""The report's part about multi-phase learning, from the phases.json that `ssod.tools.run_phases`
writes at the end.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Sequence

from ssod.plotting.charts import Bars, bar_chart
from ssod.plotting.run_data import RunData
from ssod.plotting.section import (
    Section,
    grid,
    heading,
    join,
    number,
    remark,
    run_colour,
    table,
    unique,
)

_SUBSETS = ("all", "easy", "difficult")


def phase_section(runs: Sequence[RunData]) -> Optional[Section]:
    """Each model and the ensembles (Table 5), the labels' quality by phase (Fig. 2) and the images'
    certainty.
    """
    parts: List[str] = []
    for folder in unique([os.path.dirname(os.path.abspath(run.folder)) for run in runs]):
        try:
            with open(os.path.join(folder, "phases.json"), encoding="utf-8") as file:
                record = json.load(file)
        except (OSError, ValueError):
            continue
        parts.append(heading(os.path.basename(folder)))
        parts += [_results(name, test) for name, test in record["test"].items()]
        parts.append(_quality(record["labels"]))
        parts.append(grid([_certainty(entry) for entry in record["labels"]]))
    return Section("Phases", join(parts)) if parts else None


def _results(name: str, test: Dict[str, Any]) -> str:
    headers = ["phase"] + [f"{m} {subset}" for subset in _SUBSETS for m in ("AP", "AP50")]
    rows = [
        [label]
        + [number(row.get(s, {}).get(metric)) for s in _SUBSETS for metric in ("AP", "AP50")]
        for label, row in test["rows"].items()
    ]
    share = number(100 * test["easy_share"], 0)
    meaning = remark(
        f"{name}: {share} % of the images are easy, that is, recall exceeds 1 - precision of what "
        "the supervised model finds in them. 0 is that model, 1~N and 0~N are ensembles."
    )
    return meaning + table(headers, rows)


def _quality(labels: Sequence[Dict[str, Any]]) -> str:
    measured = [entry for entry in labels if "quality" in entry]
    if not measured:
        return ""
    headers = ["labels of phase", "images kept", "easy images %", "easy images % of the kept"]
    headers += ["AP / AP50 of the labels"]
    headers += [f"precision / recall % {subset}" for subset in _SUBSETS]
    rows: List[List[str]] = []
    for entry in measured:
        row = [str(entry["phase"]), str(entry["images"])]
        row += [number(100 * entry[key]) for key in ("easy_share", "easy_share_kept")]
        row.append(" / ".join(number(entry.get("ap", {}).get(key)) for key in ("AP", "AP50")))
        for subset in _SUBSETS:
            row.append(" / ".join(number(100 * value) for value in entry["quality"][subset]))
        rows.append(row)
    meaning = remark(
        "Pseudo-labels of all unlabelled images against their truth; easy and difficult by the "
        "first phase's labels."
    )
    return meaning + table(headers, rows)


def _certainty(entry: Dict[str, Any]) -> str:
    everything, kept = entry["certainty_all"], entry["certainty_kept"]
    bins = len(everything)
    names = [f"{i / bins:.2f}–{(i + 1) / bins:.2f}" for i in range(bins)]
    series = [
        Bars("all", [float(v) for v in everything], run_colour(0)),
        Bars("kept", [float(v) for v in kept], run_colour(1)),
    ]
    return bar_chart(f"Images by certainty, phase {entry['phase']}", names, series, digits=0)
