"""The report's part about the cost of wrong pseudo-labels, from `ssod.tools.diagnose`."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Sequence

from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section, heading, join, number, remark, table, unique

FILE = "diagnosis.json"


def diagnosis_section(runs: Sequence[RunData]) -> Optional[Section]:
    """AP of the rows, what each error costs and what unlabelled images bring, of every diagnosis
    that a run is part of.
    """
    parts: List[str] = []
    # OUTPUT/<row>/seed_<n>
    above = [os.path.dirname(os.path.dirname(os.path.abspath(run.folder))) for run in runs]
    for folder in unique(above):
        try:
            with open(os.path.join(folder, FILE), encoding="utf-8") as file:
                record = json.load(file)
            for name, found in record["datasets"].items():
                parts.append(heading(f"{os.path.basename(folder)}, tested on {name}"))
                parts.append(_rows(record["rows"], found["values"]))
                parts.append(_costs(found["costs"]))
                parts.append(_gain(found["gain"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    if parts:
        parts.append(
            remark(
                "All rows but the first two read the labels of the unlabelled images: they explain "
                "the recipe and are no results of it."
            )
        )
    return Section("Diagnosis of the pseudo-labels", join(parts)) if parts else None


def _rows(meaning: Dict[str, str], values: Dict[str, Dict[str, float]]) -> str:
    seeds = sorted({int(seed) for row in values.values() for seed in row})
    headers = ["row", *(f"AP, seed {seed}" for seed in seeds)]
    rows = [
        [what, *(number(values.get(name, {}).get(str(seed))) for seed in seeds)]
        for name, what in meaning.items()
    ]
    return table(headers, rows)


def _costs(costs: Sequence[Dict[str, Any]]) -> str:
    rows = [
        [cost["what"], number(cost["points"]["mean"]), number(cost["points"]["spread"])]
        for cost in costs
    ]
    return table(["error of the pseudo-labels", "costs AP", "standard error"], rows) if rows else ""


def _gain(gain: Optional[Dict[str, Any]]) -> str:
    if gain is None:
        return ""
    brings = f"Unlabelled images bring {number(gain['recipe']['mean'])} AP"
    if gain["truth"]["mean"] is not None:
        brings += f", with true labels {number(gain['truth']['mean'])}"
    return remark(f"{brings}.")
