"""The report: from run folders to one self-contained HTML page."""

from __future__ import annotations

import base64
import datetime
import gzip
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, List, Optional, Sequence, Tuple

from ssod.errors import UserError
from ssod.plotting.markup import environment
from ssod.plotting.run_data import RunData
from ssod.plotting.section import Section
from ssod.report.attention_section import attention_section
from ssod.report.class_histogram import data_section
from ssod.report.diagnosis import diagnosis_section
from ssod.report.gallery_sections import detection_section, pseudo_label_gallery
from ssod.report.overview import overview_section
from ssod.report.phases import phase_section
from ssod.report.sections import (
    activity_section,
    ap_section,
    class_ap_section,
    loss_section,
    method_sections,
    pseudo_label_section,
    warning_section,
)
from ssod.report.skipped import skipped_boxes_section, skipped_section
from ssod.utils.progress import progress

_PARTS: Tuple[Callable[[Sequence[RunData]], Optional[Section]], ...] = (
    overview_section,
    warning_section,
    data_section,
    ap_section,
    class_ap_section,
    phase_section,
    diagnosis_section,
    activity_section,
    pseudo_label_section,
    attention_section,
    pseudo_label_gallery,
    detection_section,
    loss_section,
)


@dataclass
class _Anchored:
    """A section and its address in the page."""

    title: str
    html: str
    anchor: str


def build_page(runs: Sequence[RunData]) -> str:
    """The whole page as HTML. A section is left out if the runs have nothing for it.

    Raises:
        UserError: Plotly is not installed.
    """
    library = packed_plotly()
    found = [part(runs) for part in progress(_PARTS, "Drawing", unit="section")]
    found += method_sections(runs)
    found += [part(runs) for part in (skipped_section, skipped_boxes_section)]
    sections = _anchored([section for section in found if section is not None])
    charts = any('class="plot"' in section.html for section in sections)
    page = environment("ssod.report").get_template("page.html")
    return page.render(
        title="Report: " + ", ".join(run.name for run in runs),
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        sections=sections,
        library=library if charts else "",
    )


@lru_cache(maxsize=None)
def packed_plotly() -> str:
    """Plotly's JavaScript of 5 MB, compressed and as base64, which takes a third of that."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError(
            "The report's charts need Plotly: pip install plotly (any version from 6 on)."
        ) from None
    packed = gzip.compress(get_plotlyjs().encode(), mtime=0)
    return base64.b64encode(packed).decode()


def _anchored(sections: Sequence[Section]) -> List[_Anchored]:
    used: List[str] = []
    for section in sections:
        anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        while anchor in used:
            anchor += "-2"
        used.append(anchor)
    return [_Anchored(s.title, s.html, anchor) for s, anchor in zip(sections, used)]


def write_page(runs: Sequence[RunData], path: str) -> None:
    """Writes the page. A browser that reloads it meanwhile never gets half a page."""
    temporary = f"{path}.{os.getpid()}.tmp"
    page = build_page(runs)
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(temporary, path)
