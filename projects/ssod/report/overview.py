"""The report's first section: what each run is, and how far it is."""

from __future__ import annotations

import datetime
from typing import List, Sequence, Tuple

from ssod.plotting.markup import part
from ssod.plotting.run_data import RunData, format_time
from ssod.plotting.section import Section, boxed, number, run_colour, table


def overview_section(runs: Sequence[RunData]) -> Section:
    """What each run is, a column for each."""
    columns = [_facts(run) for run in runs]
    names = [name for name, _ in columns[0]]
    headers = [""] + [part("swatch", run_colour(i), run.name) for i, run in enumerate(runs)]
    rows = [[name, *(facts[index][1] for facts in columns)] for index, name in enumerate(names)]
    return Section("Runs", boxed("facts", [table(headers, rows)]))


def _facts(run: RunData) -> List[Tuple[str, str]]:
    methods = run.get("SSOD.METHODS")
    trained = ", ".join(run.get("DATASETS.TRAIN", [])) or "–"
    facts = [
        ("State", run.state),
        ("Steps", f"{run.steps_done} of {run.steps_total or '?'}"),
        ("Config", run.config_name or "–"),
        ("Methods", ", ".join(methods) if methods else "none: supervised" if run.config else "–"),
        ("Burn-in", "–" if run.burn_in_end is None else f"{run.burn_in_end} steps"),
        ("Labelled", trained),
        ("Unlabelled", (", ".join(run.get("DATASETS.UNLABELED", [])) or "–") if methods else "–"),
        ("Seed", str(run.get("SEED", "–"))),
        ("Started", _started(run)),
        ("Last written", format_time(run.last_written)),
        (f"Teacher's {'best' if run.get('DATASETS.VAL') else 'last'} AP in training", _best(run)),
        ("Folder", run.folder),
    ]
    for (dataset, how), metrics in run.measured_ap().items():
        if run.results:
            facts.insert(
                -1, ("AP on the test set", f"{number(metrics.get('AP'))} on {dataset} ({how})")
            )
            break
    else:
        facts.insert(-1, ("AP on the test set", "–"))
    return facts


def _started(run: RunData) -> str:
    """When training began, and how often; the log has no year, the files do."""
    if not run.starts or run.last_written is None:
        return "–"
    last = datetime.datetime.fromtimestamp(run.last_written)
    first = run.starts[0]
    year = last.year - (first[:5] > last.strftime("%m/%d"))
    often = f" (resumed or started again {len(run.starts) - 1}×)" if len(run.starts) > 1 else ""
    return f"{year}-{first.replace('/', '-')}{often}"


def _best(run: RunData) -> str:
    best = (run.results or {}).get("teacher_best", {})
    if best.get("AP", -1) >= 0:
        return f"{best['AP']:.1f} at step {best['step']}"
    keys = [key for key in run.keys() if key.endswith("teacher/bbox/AP")]
    points = [(value, -step) for key in keys[:1] for step, value in run.series(key)]
    if not points:
        return "–"
    # Nothing is chosen on the test set, which is evaluated in training where there is no other.
    value, step = max(points) if run.get("DATASETS.VAL") else points[-1]
    return f"{value:.1f} at step {-step}"
