"""The image files and boxes that runs could not use."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section, boxed, fold, heading, listing

_MOST = 100


def skipped_section(runs: Sequence[RunData]) -> Optional[Section]:
    """Image files that could not be read, in training or evaluation."""
    parts = []
    for run in runs:
        files = run.skipped_files
        if files:
            rows = [f"{file}: {why}" for file, why in files.items()]
            parts += [heading(f"{run.name}: {len(files)} files"), _listed(rows)]
    return _section("Skipped image files", parts)


def skipped_boxes_section(runs: Sequence[RunData]) -> Optional[Section]:
    """Boxes of annotation files that could not be used: how many for each reason, and which."""
    parts = []
    for run in runs:
        for source, rows in run.skipped_boxes.items():
            parts.append(heading(f"{run.name}: {len(rows)} boxes of {source}"))
            reasons = Counter(str(row.get("reason")) for row in rows)
            parts.append(listing([f"{count} {why}" for why, count in reasons.most_common()]))
            parts.append(fold("which", _listed([_describe(row) for row in rows])))
    return _section("Skipped boxes", parts)


def _describe(row: Dict[str, Any]) -> str:
    image = f" ({row['image']})" if row.get("image") else ""
    return f"{row.get('label')}{image}: {row.get('reason')}"


def _listed(rows: Sequence[str]) -> str:
    shown: List[str] = list(rows[:_MOST])
    if len(rows) > _MOST:
        shown.append(f"and {len(rows) - _MOST:,} more")
    return listing(shown)


def _section(title: str, parts: Sequence[str]) -> Optional[Section]:
    return Section(title, boxed("warn", parts)) if parts else None
