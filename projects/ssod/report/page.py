"""The report: from run folders to one self-contained HTML page."""

from __future__ import annotations

import datetime
import os
import re
from typing import Callable, List, Optional, Sequence, Tuple

from ssod.plotting.run_data import RunData, format_time
from ssod.plotting.section import Section, number, run_colour, table, text
from ssod.plotting.style import CSS
from ssod.report.class_histogram import data_section
from ssod.report.diagnosis import diagnosis_section
from ssod.report.phases import phase_section
from ssod.report.sections import (
    activity_section,
    ap_section,
    class_ap_section,
    detection_section,
    loss_section,
    method_sections,
    pseudo_label_gallery,
    pseudo_label_section,
    warning_section,
)
from ssod.report.skipped import skipped_boxes_section, skipped_section


def build_page(runs: Sequence[RunData]) -> str:
    """The whole page as HTML; sections for which the runs have nothing are left out."""
    sections: List[Section] = [_overview(runs)]
    parts: List[Callable[[Sequence[RunData]], Optional[Section]]] = [
        warning_section,
        data_section,
        ap_section,
        class_ap_section,
        phase_section,
        diagnosis_section,
        activity_section,
        pseudo_label_section,
        pseudo_label_gallery,
        detection_section,
        loss_section,
    ]
    sections += [section for part in parts if (section := part(runs)) is not None]
    sections += method_sections(runs)
    for part in (skipped_section, skipped_boxes_section):
        section = part(runs)
        sections += [section] if section else []
    title = "Report: " + ", ".join(run.name for run in runs)
    links, bodies, used = [], [], set()
    for section in sections:
        anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        while anchor in used:
            anchor += "-2"
        used.add(anchor)
        links.append(f"<a href='#{anchor}'>{text(section.title)}</a>")
        bodies.append(
            f"<section id='{anchor}'><h2>{text(section.title)}</h2>{section.html}</section>"
        )
    written = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    return (
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{text(title)}</title><style>{CSS}</style></head><body>"
        f"<header><div><h1>{text(title)}</h1><p class=soft>Written {written}</p><nav>{''.join(links)}</nav></div></header>"
        f"<main>{''.join(bodies)}</main></body></html>\n"
    )


def _overview(runs: Sequence[RunData]) -> Section:
    columns = [_facts(run) for run in runs]
    names = [name for name, _ in columns[0]]
    headers = [""] + [
        f"<span style='color:{run_colour(i)}'>■</span> {text(run.name)}"
        for i, run in enumerate(runs)
    ]
    rows = [
        [text(name), *(text(facts[index][1]) for facts in columns)]
        for index, name in enumerate(names)
    ]
    return Section("Runs", f"<div class=facts>{table(headers, rows)}</div>")


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


def write_page(runs: Sequence[RunData], path: str) -> None:
    """Writes the page; a browser that reloads meanwhile never sees half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(build_page(runs))
    os.replace(temporary, path)
