"""The report's section of images that need a look."""

from __future__ import annotations

import os
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from ssod.plotting.pictures import Card, Shot, pictures
from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section, heading, join, remark
from ssod.report.attention import (
    CONFIDENT,
    Finding,
    Row,
    changed_class,
    confident_and_wrong,
    never_confident,
)
from ssod.report.gallery import picture
from ssod.report.gallery_sections import missing_note

# Of all runs together, a list; no run shows fewer than the second number.
_MOST, _LEAST = 12, 3
_MOST_LINES = 3
_THUMBNAIL = 240

_LISTS: Tuple[Tuple[str, Callable[[Mapping[int, Row]], List[Finding]]], ...] = (
    ("changed class between two evaluations", changed_class),
    (f"score {CONFIDENT:g} or more and wrong, at the last evaluation", confident_and_wrong),
    ("never a label", never_confident),
)


def attention_section(runs: Sequence[RunData]) -> Optional[Section]:
    """Unlabelled images, by run and by what is odd about their pseudo-labels."""
    most = max(_LEAST, _MOST // max(1, len(runs)))
    parts: List[str] = []
    for run in runs:
        for what, find in _LISTS:
            findings = find(run.quality)
            if findings:
                who = f"{run.name}, " if len(runs) > 1 else ""
                parts.append(heading(f"{who}{what}: {_count(findings, run)}"))
                parts.append(_cards(findings[:most], run))
    if not parts:
        return None
    meaning = remark(
        "Unlabelled images of the sample that each evaluation looks at, the most urgent first. "
        "The command ssod next ranks all unlabelled images for labelling."
    )
    return Section("Images that need a look", join([meaning, *parts]))


def _count(findings: Sequence[Finding], run: RunData) -> str:
    sample = {row["file_name"] for record in run.quality.values() for row in record["images"]}
    return f"{len(findings)} of {len(sample)} images"


def _cards(findings: Sequence[Finding], run: RunData) -> str:
    names = list(run.quality.values())[-1]["classes"]
    cards, missing = [], []
    for finding in findings:
        drawn = [
            (caption, picture(finding.file_name, boxes, names, size=_THUMBNAIL))
            for caption, boxes in finding.shots
        ]
        shots = [Shot(caption, uri) for caption, uri in drawn if uri]
        if not shots:
            missing.append(finding.file_name)
            continue
        lines = finding.lines[:_MOST_LINES]
        if len(finding.lines) > _MOST_LINES:
            lines.append(f"and {len(finding.lines) - _MOST_LINES} more")
        cards.append(Card(shots, os.path.basename(finding.file_name), lines))
    return join([pictures(cards, small=True), *missing_note(missing)])
